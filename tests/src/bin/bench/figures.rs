//! Series of measured times, and what is said of them.

use std::time::Duration;

/// Times of one thing, in milliseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn add(&mut self, time: Duration) {
        self.add_milliseconds(time.as_secs_f64() * 1000.0);
    }

    pub(crate) fn add_milliseconds(&mut self, time: f64) {
        self.0.push(time);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    pub(crate) fn p90(&self) -> f64 {
        self.at(0.9)
    }

    pub(crate) fn fastest(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// How many took that much longer than the fastest.
    pub(crate) fn slower_by(&self, milliseconds: f64) -> usize {
        self.0.iter().filter(|time| **time >= self.fastest() + milliseconds).count()
    }

    pub(crate) fn worst(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// The smallest first.
    pub(crate) fn all(&self) -> &[f64] {
        &self.0
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The value below which that share of all lies, between two values in proportion.
    fn at(&self, share: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        let mut rank = share * last as f64;
        for pair in self.0.windows(2) {
            if rank < 1.0 {
                return pair[0] + (pair[1] - pair[0]) * rank;
            }
            rank -= 1.0;
        }
        self.worst()
    }
}

/// A table in Markdown, which can be read as it stands.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            // Numbers stand to the right, what they are of to the left.
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(&format!("| {} |\n", cells.collect::<Vec<_>>().join(" | ")));
        if number == 0 {
            let rules = widths.iter().enumerate().map(|(column, width)| {
                if column == 0 { "-".repeat(*width) } else { format!("{}:", "-".repeat(width - 1)) }
            });
            text.push_str(&format!("| {} |\n", rules.collect::<Vec<_>>().join(" | ")));
        }
    }
    text
}

pub(crate) fn milliseconds(value: f64) -> String {
    if value.is_nan() { "–".to_owned() } else { format!("{value:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::{Series, table};

    #[test]
    fn medians_and_shares_lie_between_values() {
        let mut series = Series::default();
        assert!(series.median().is_nan());
        for time in [4.0, 1.0, 3.0, 2.0] {
            series.add_milliseconds(time);
        }
        assert!((series.median() - 2.5).abs() < 1e-9);
        assert!((series.p90() - 3.7).abs() < 1e-9);
        assert!((series.worst() - 4.0).abs() < 1e-9);
        assert!((series.fastest() - 1.0).abs() < 1e-9);
        assert_eq!(series.slower_by(2.0), 2);
    }

    #[test]
    fn a_table_is_markdown() {
        let rows = [vec!["a".to_owned(), "ms".to_owned()], vec!["long".to_owned(), "7".to_owned()]];
        assert_eq!(table(&rows), "| a    | ms |\n| ---- | -: |\n| long |  7 |\n");
    }
}
