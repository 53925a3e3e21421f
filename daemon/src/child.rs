//! Waits for a program that was started, with an end to the waiting: nothing that godebugd or godebug-revoke
//! runs may hold up a revocation.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// How it ended; `None` when it took longer than `limit` and was killed. What it prints must fit into a
/// pipe (64 KiB), since nobody reads meanwhile.
///
/// # Errors
/// When it cannot be waited for.
pub(crate) fn ends_within(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        // There is no waiting for a process with an end to it.
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn one_that_does_not_end_is_killed() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let ended = ends_within(&mut child, Duration::from_millis(30)).unwrap();
        assert_eq!((ended, child.try_wait().unwrap().is_some()), (None, true));
        let mut child = Command::new("false").spawn().unwrap();
        let ended = ends_within(&mut child, Duration::from_secs(60)).unwrap();
        assert_eq!(ended.and_then(|status| status.code()), Some(1));
    }
}
