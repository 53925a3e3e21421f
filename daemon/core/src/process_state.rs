//! Whether a process runs or stands, read from its `/proc/PID/status`. What a debugger does to a
//! service is measured on the service, here, and not on what debugger and client say to each other.

/// What a look at a process shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessState {
    /// Or asleep, or on its way to a stop.
    Runs,
    /// Stopped, and not by the tracer that it has.
    Stands,
    /// In a tracing stop: its debugger holds it.
    Frozen,
    /// Its main thread has ended, so nothing shows any more whether the others stand.
    Ended,
}

impl ProcessState {
    /// As much of the file as [`Self::of`] needs.
    pub const BYTES: usize = 512;

    /// From the beginning of /proc/PID/status; `None` when that is not what it is. The kernel escapes
    /// line breaks in the name that stands first.
    pub fn of(status: &[u8]) -> Option<Self> {
        let value = |name: &[u8]| {
            let mut lines = status.split(|byte| *byte == b'\n');
            lines.find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii_start)
        };
        let is_traced = value(b"TracerPid:")? != b"0";
        Some(match value(b"State:")?.first()? {
            b't' if is_traced => Self::Frozen,
            b't' | b'T' => Self::Stands,
            b'Z' | b'X' | b'x' => Self::Ended,
            _ => Self::Runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ProcessState::{self, Ended, Frozen, Runs, Stands};

    #[test]
    fn the_kernels_words_are_understood() {
        let of = |state: &str, tracer: u32| {
            let text = format!(
                "Name:\ta\\nState:\\tt\nUmask:\t0022\nState:\t{state}\nTracerPid:\t{tracer}\nUid:\t0\n"
            );
            ProcessState::of(text.as_bytes())
        };
        assert_eq!(of("S (sleeping)", 0), Some(Runs));
        assert_eq!(of("R (running)", 9), Some(Runs));
        assert_eq!(of("t (tracing stop)", 9), Some(Frozen));
        assert_eq!(of("t (tracing stop)", 0), Some(Stands));
        assert_eq!(of("T (stopped)", 9), Some(Stands));
        assert_eq!(of("Z (zombie)", 9), Some(Ended));
        assert_eq!(ProcessState::of(b"Name:\tx\nState:\tt"), None);
        assert_eq!(ProcessState::of(b""), None);
    }
}
