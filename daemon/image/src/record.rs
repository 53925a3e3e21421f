//! The transcript of a session that takes images for one person: what was asked, each image with its pause, and
//! what was shown of it. What cannot be written down is not shown.

use crate::target::Image;
use godebug_api::Refusal;
use godebug_api::image::{Hit, ImageRecord, ImageTask};
use godebug_api::transcript::{Entry, Outcome, Writer, shown};
use std::fs::File;
use std::time::Duration;

pub(crate) struct Record {
    writer: Writer,
    client: String,
    values: godebug_api::rules::engine::TranscriptValues,
    stood: Duration,
    longest: Duration,
}

impl Record {
    pub(crate) fn new(file: File, of: &ImageRecord) -> Self {
        Self {
            writer: Writer::new(file, of.host.clone(), of.boot.clone()),
            client: of.client.clone(),
            values: of.values,
            stood: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }

    /// What a person wants to see.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn asked(&mut self, task: &ImageTask) -> Result<(), Refusal> {
        operations(task).into_iter().try_for_each(|(operation, subject)| {
            self.writer
                .append(&Entry::Operation {
                    client: &self.client,
                    protocol: "",
                    operation,
                    subject: &subject,
                    outcome: Outcome::Allowed,
                    why: None,
                })
                .map_err(|error| unwritten(&error))
        })
    }

    /// The target was copied, at this place or just now.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn image(&mut self, image: &Image, place: &str) -> Result<(), Refusal> {
        self.stood += image.pause;
        self.longest = self.longest.max(image.pause);
        let pause_ms = crate::milliseconds(image.pause);
        self.writer.append(&Entry::Image { pause_ms, place }).map_err(|error| unwritten(&error))
    }

    /// These values are about to be shown.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn hit(&mut self, hit: &Hit) -> Result<(), Refusal> {
        let all = hit.variables.iter().map(|one| (one.name.as_str(), one.value.as_str()));
        let variables = shown(all, self.values);
        if variables.is_empty() {
            return Ok(());
        }
        let entry = Entry::Shown { client: &self.client, variables: &variables };
        self.writer.append(&entry).map_err(|error| unwritten(&error))
    }

    /// # Errors
    /// When it cannot be written, or is not on the disk.
    pub(crate) fn end(&mut self, why: &str) -> Result<(), Refusal> {
        let entry = Entry::Ended {
            why,
            stood_ms: whole_milliseconds(self.stood),
            longest_stop_ms: whole_milliseconds(self.longest),
            let_go: 0,
        };
        self.writer
            .append(&entry)
            .and_then(|()| self.writer.file().sync_data())
            .map_err(|error| unwritten(&error))
    }
}

fn operations(task: &ImageTask) -> Vec<(&'static str, String)> {
    match task {
        ImageTask::Goroutines => vec![("goroutines", String::new())],
        ImageTask::Heap { .. } => vec![("heap", String::new())],
        ImageTask::Snapshot { at, expressions, condition, .. } => {
            let lines = at.iter().map(|at| ("snapshot", format!("at {at}")));
            let mut all: Vec<_> = lines.collect();
            if at.is_empty() {
                all.push(("snapshot", "now".to_owned()));
            }
            all.extend(condition.iter().map(|condition| ("condition", condition.to_string())));
            all.extend(expressions.iter().map(|one| ("evaluate", one.to_string())));
            if expressions.is_empty() {
                all.push(("variables", "arguments and locals".to_owned()));
            }
            all
        }
    }
}

/// A stop of less counts as one.
fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

fn unwritten(error: &std::io::Error) -> Refusal {
    Refusal::host(
        format!("the transcript cannot be written, so nothing more is shown: {error}"),
        "make room in /var/log/godebug, then try again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use godebug_api::image::{Count, Depth, Every};
    use godebug_api::rules::engine::TranscriptValues;

    #[test]
    fn what_is_asked_is_told_one_by_one() {
        let phrases = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect();
        let task = |at, expressions, condition: Option<&str>| ImageTask::Snapshot {
            at,
            expressions,
            condition: condition.map(|text| text.parse().unwrap()),
            count: Count::default(),
            stack: Depth::default(),
            every: Every::default(),
            keep: None,
        };
        let asked = task(phrases(&["main.f", "a.go:3"]), phrases(&["o.ID"]), Some("n > 2"));
        let told: Vec<String> = operations(&asked)
            .into_iter()
            .map(|(operation, subject)| format!("{operation} {subject}"))
            .collect();
        let expected =
            ["snapshot at main.f", "snapshot at a.go:3", "condition n > 2", "evaluate o.ID"];
        assert_eq!(told, expected);
        let now = operations(&task(vec![], vec![], None));
        assert_eq!((now[0].1.as_str(), now[1].0), ("now", "variables"));
    }

    #[test]
    fn what_cannot_be_written_down_is_an_error() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let of = ImageRecord {
            client: "root".to_owned(),
            host: "h".to_owned(),
            boot: "b".to_owned(),
            values: TranscriptValues::None,
        };
        let mut record = Record::new(full, &of);
        assert!(record.asked(&ImageTask::Goroutines).is_err());
        assert!(record.image(&Image::for_tests(), "").is_err());
        assert!(record.end("done").is_err());
    }

    #[test]
    fn a_stop_of_less_than_a_millisecond_is_one() {
        assert_eq!(whole_milliseconds(Duration::from_micros(400)), 1);
        assert_eq!(whole_milliseconds(Duration::from_micros(1400)), 2);
        assert_eq!(whole_milliseconds(Duration::ZERO), 0);
    }
}
