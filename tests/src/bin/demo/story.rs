//! How the demonstration looks on a terminal, and in a log.

use std::{
    io::{IsTerminal, Write},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const BLUE: &str = "1;34";
const MAGENTA: &str = "1;35";

/// Longer lines of what commands print are cut.
const COLUMNS: usize = 132;

/// Who types a command, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Host,
    Laptop,
    Ide,
}

pub(crate) struct Story {
    began: Instant,
    chapters: u32,
    colours: bool,
}

impl Story {
    pub(crate) fn begin() -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let plain = dumb || std::env::var_os("NO_COLOR").is_some();
        let colours = std::io::stdout().is_terminal() && !plain;
        Self { began: Instant::now(), chapters: 0, colours }
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub(crate) fn chapter(&mut self, title: &str) {
        self.chapters += 1;
        let at = format!("{:5.1} s", self.began.elapsed().as_secs_f32());
        let title = format!("{}. {title}", self.chapters);
        let line = "─".repeat(76_usize.saturating_sub(title.chars().count()));
        println!(
            "\n{} {} {}",
            self.painted(BOLD, &title),
            self.painted(DIM, &line),
            self.painted(DIM, &at)
        );
    }

    /// A sentence of the teller's own.
    pub(crate) fn says(&self, text: &str) {
        println!("  {text}");
    }

    pub(crate) fn typed(&self, place: Place, command: &str) {
        let prompt = match place {
            Place::Host => self.painted(MAGENTA, "root@host#"),
            Place::Laptop => self.painted(BLUE, "you@laptop$"),
            Place::Ide => self.painted(BLUE, "IDE:"),
        };
        println!("  {prompt} {}", self.painted(BOLD, command));
    }

    /// What a command printed.
    pub(crate) fn printed(&self, text: &str) {
        for line in text.trim_end().lines() {
            let line: String = line.trim_end().chars().take(COLUMNS).collect();
            let line = line.replace('✓', &self.painted(GREEN, "✓"));
            println!("    {line}");
        }
    }

    pub(crate) fn fact(&self, name: &str, value: &str) {
        let value: String = value.chars().take(COLUMNS - 18).collect();
        println!("    {} {value}", self.painted(DIM, &format!("{name:<14}")));
    }

    pub(crate) fn good(&self, text: &str) {
        println!("  {} {text}", self.painted(GREEN, "✓"));
    }

    pub(crate) fn bad(&self, text: &str) {
        println!("  {} {text}", self.painted(RED, "✗"));
    }

    /// Counts down until `done` says something, or hangs up, or `limit` has passed. Whether it came.
    pub(crate) fn waits(&self, what: &str, limit: Duration, done: &Receiver<()>) -> bool {
        let until = Instant::now() + limit;
        if !self.colours {
            self.says(what);
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if self.colours {
                print!("\r\u{1b}[K  {} {what}", self.painted(DIM, &countdown(left)));
                let _ = std::io::stdout().flush();
            }
            let over = match done.recv_timeout(left.min(Duration::from_millis(250))) {
                Ok(()) | Err(RecvTimeoutError::Disconnected) => Some(true),
                Err(RecvTimeoutError::Timeout) => left.is_zero().then_some(false),
            };
            if let Some(came) = over {
                if self.colours {
                    print!("\r\u{1b}[K");
                }
                return came;
            }
        }
    }

    pub(crate) fn ends(&self) {
        let took = format!("in {:.0} s", self.began.elapsed().as_secs_f32());
        println!("\n{} {took}\n", self.painted(GREEN, "The whole story"));
    }
}

fn countdown(left: Duration) -> String {
    format!("{:>3} s", left.as_secs())
}
