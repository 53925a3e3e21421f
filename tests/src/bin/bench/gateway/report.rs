//! What was measured of the gateway, as it stands in docs/measurements.md.

use super::{HALF_OPEN, Kind, Measured, Times};
use crate::figures::table;

/// What may be added to a request, in microseconds, at the median and at the 99th percentile.
const AIM_MEDIAN: f64 = 100.0;
const AIM_P99: f64 = 1000.0;
const AIM_MEMORY_KIB: u64 = 16 << 10;

pub(crate) fn text(measured: &Measured) -> String {
    let mut text = "### What stands before dlv\n\n".to_owned();
    for (what, kinds) in &measured.requests {
        text += &format!("{what}\n\n{}\n", requests(kinds));
    }
    for (what, kinds) in &measured.bulk {
        let mut rows = vec![row(&[what, "runs", "median", "slowest"])];
        for (kind, rates) in kinds {
            let rates = sorted(rates);
            let rate = |share| format!("{:.0} MB/s", at(&rates, share));
            rows.push(vec![kind.name().to_owned(), rates.len().to_string(), rate(0.5), rate(0.0)]);
        }
        text += &format!("{}\n", table(&rows));
    }
    text + &aims(measured)
}

fn requests(kinds: &std::collections::BTreeMap<Kind, Times>) -> String {
    let direct = kinds.get(&Kind::Direct).map(|times| sorted(times)).unwrap_or_default();
    let mut rows = vec![row(&["", "requests", "median", "p99", "added, median", "added, p99"])];
    for (kind, times) in kinds {
        let times = sorted(times);
        let added = |share: f64| match kind {
            Kind::Direct => "–".to_owned(),
            _ => micro(at(&times, share) - at(&direct, share)),
        };
        rows.push(vec![
            kind.name().to_owned(),
            times.len().to_string(),
            micro(at(&times, 0.5)),
            micro(at(&times, 0.99)),
            added(0.5),
            added(0.99),
        ]);
    }
    table(&rows)
}

fn aims(measured: &Measured) -> String {
    let mut text = String::new();
    for (what, kinds) in &measured.requests {
        let (Some(direct), Some(gateway)) = (kinds.get(&Kind::Direct), kinds.get(&Kind::Gateway))
        else {
            continue;
        };
        let (direct, gateway) = (sorted(direct), sorted(gateway));
        for (name, share, aim) in [("median", 0.5, AIM_MEDIAN), ("p99", 0.99, AIM_P99)] {
            let added = at(&gateway, share) - at(&direct, share);
            let verdict = met(added <= aim);
            text += &format!(
                "* {what}: at most {} added at the {name}; {}: {verdict}\n",
                micro(aim),
                micro(added)
            );
        }
        if let Some(ghostunnel) = kinds.get(&Kind::Ghostunnel) {
            let ghostunnel = at(&sorted(ghostunnel), 0.5);
            let verdict = met(at(&gateway, 0.5) < ghostunnel);
            text += &format!(
                "* {what}: less than ghostunnel adds at the median, {}: {verdict}\n",
                micro(ghostunnel - at(&direct, 0.5))
            );
        }
    }
    for kinds in measured.bulk.values() {
        let rate = |kind: &Kind| kinds.get(kind).map_or(0.0, |rates| at(&sorted(rates), 0.5));
        let best = Kind::COPIERS.iter().map(rate).fold(0.0, f64::max);
        let verdict = met(rate(&Kind::Gateway) >= best);
        text += &format!(
            "* bulk at least as fast as the fastest of those that only copy ({best:.0} MB/s): {verdict}\n"
        );
    }
    let megabytes = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    text += &format!(
        "* at most 16 MiB resident with one client: {}: {}; after an answer of 24 MB: {}\n",
        megabytes(measured.memory_kib),
        met(measured.memory_kib <= AIM_MEMORY_KIB),
        megabytes(measured.memory_after_bulk_kib),
    );
    let flooded = sorted(&measured.flooded);
    text += &format!(
        "* with {HALF_OPEN} connections that say nothing, the client that works has its answers after \
         {} (median), {} (p99), {} (the slowest of {})\n",
        micro(at(&flooded, 0.5)),
        micro(at(&flooded, 0.99)),
        micro(at(&flooded, 1.0)),
        flooded.len(),
    );
    for missing in &measured.not_measured {
        text += &format!("* not measured: {missing}\n");
    }
    text
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn sorted(times: &[f64]) -> Vec<f64> {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times
}

/// The value below which that share lies.
fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
}

fn micro(value: f64) -> String {
    if value.is_nan() { "–".to_owned() } else { format!("{value:.0} µs") }
}
