//! What a dlv that hangs is at, and which threads of its target do not stand: for whoever has to find out
//! why, when both are gone.

use godebug_api::Pid;
use std::fmt::Write;
use std::path::Path;

/// Threads of each that are told of.
const MOST: usize = 24;

/// A line for each.
pub(crate) fn account(dlv: Pid, target: Pid) -> String {
    let of_dlv = threads(dlv, |_| true);
    // `t`: where its tracer wants it.
    let running = threads(target, |state| !state.starts_with('t'));
    format!("threads of dlv: {of_dlv}\nthreads of process {target} that do not stand: {running}")
}

fn threads(pid: Pid, counts: impl Fn(&str) -> bool) -> String {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return "gone".to_owned();
    };
    let mut told = String::new();
    let paths = tasks.flatten().map(|task| task.path());
    let counted = paths.filter_map(|path| thread(&path).filter(|(state, _)| counts(state)));
    for (_, thread) in counted.take(MOST) {
        let _ = write!(told, "{thread}; ");
    }
    if told.is_empty() { "none".to_owned() } else { told.trim_end_matches("; ").to_owned() }
}

/// Its state, and all of it: number, state, tracer, pending signals, where it waits in the kernel and in
/// which system call.
fn thread(path: &Path) -> Option<(String, String)> {
    let status = std::fs::read_to_string(path.join("status")).ok()?;
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map_or("?", str::trim).to_owned()
    };
    let read = |name: &str| {
        let text = std::fs::read_to_string(path.join(name)).unwrap_or_default();
        text.split_whitespace().take(4).collect::<Vec<_>>().join(" ")
    };
    let (number, state) = (field("Pid"), field("State"));
    let told = format!(
        "{number} {} traced by {} pending {}/{} in {} ({})",
        state.chars().next().unwrap_or('?'),
        field("TracerPid"),
        field("SigPnd").trim_start_matches('0'),
        field("ShdPnd").trim_start_matches('0'),
        read("wchan"),
        read("syscall"),
    );
    Some((state, told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_is_told_with_what_it_waits_for() {
        let me = Pid::try_from(std::process::id()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let sleeper = Pid::try_from(child.id()).unwrap();
        let mut told = String::new();
        for _ in 0..500 {
            told = account(me, sleeper);
            if told.contains("nanosleep") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(told.contains(&format!("do not stand: {sleeper} S traced by 0")), "{told}");
        assert!(told.lines().count() == 2 && told.contains("nanosleep"), "{told}");
        assert!(account(me, sleeper).ends_with("do not stand: gone"));
    }
}
