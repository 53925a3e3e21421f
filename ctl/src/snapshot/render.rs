//! Hits and goroutines as a person reads them. Every name and value was chosen by somebody else.

use crate::terminal::{BOLD, DIM, RED, YELLOW, painted, safe, shortened};
use godebug_api::SessionId;
use godebug_api::documents::KeptDump;
use godebug_api::forecast::megabytes;
use godebug_api::image::{Armed, Done, Frame, Goroutines, Group, Hit, Place, Value, WaitKind};

/// No value takes more columns unless somebody asks for it with --json.
const WIDEST: usize = 400;

pub(crate) fn armed(armed: &Armed) -> String {
    let places: Vec<String> = armed.places.iter().map(place).collect();
    format!("waiting at {}; the service runs on", places.join(", "))
}

pub(crate) fn missed(done: &Done) -> String {
    let because = done.because.as_deref().unwrap_or("it is over");
    let dropped = match done.dropped {
        0 => String::new(),
        dropped => format!(", and {dropped} for which the condition is false"),
    };
    format!("{} hits{dropped}: {}", done.hits, safe(because))
}

pub(crate) fn hit(hit: &Hit) -> String {
    let number = hit.image.map(|number| painted(BOLD, &format!("#{number}  "))).unwrap_or_default();
    let mut text = format!(
        "{number}{}  goroutine {} at {}  {}\n",
        safe(&hit.time),
        hit.goroutine,
        painted(BOLD, &place(&hit.location)),
        painted(DIM, &format!("(stopped for {:.2} ms)", hit.pause_ms)),
    );
    for variable in &hit.variables {
        text.push_str(&format!("  {}\n", value(variable)));
    }
    text.push_str(&stack(&hit.stack, "    "));
    text
}

/// How to get at images that are kept, and be rid of them.
pub(crate) fn kept(session: &SessionId, kept: &[&KeptDump]) -> String {
    let Some(latest) = kept.first() else { return "no image is kept".to_owned() };
    let number = latest.dump.image.as_ref().map_or(1, |image| image.name.number);
    let bytes = kept.iter().map(|kept| kept.dump.stored_bytes).sum();
    let until = latest.kept_until.as_deref().map(safe).unwrap_or_default();
    let count = match kept.len() {
        1 => "1 image is".to_owned(),
        more => format!("{more} images are"),
    };
    format!(
        "{count} kept until {until}, in memory ({})\n  a debugger opens one with  sudo godebugctl core {session}#{number}\n  \
         they are dropped with      sudo godebugctl stop {session}",
        megabytes(bytes)
    )
}

fn value(value: &Value) -> String {
    let name = safe(&value.name);
    match &value.unreadable {
        Some(why) => format!("{name}: {}", painted(YELLOW, &safe(why))),
        None => {
            let shown = shortened(&safe(&value.value), WIDEST);
            format!("{name} {} = {shown}", painted(DIM, &safe(&value.kind)))
        }
    }
}

fn stack(frames: &[Frame], indent: &str) -> String {
    frames.iter().map(|frame| format!("{indent}{}\n", place(&frame.place))).collect()
}

fn place(place: &Place) -> String {
    let file = place.file.rsplit('/').next().unwrap_or(&place.file);
    format!("{} ({}:{})", safe(&place.function), safe(file), place.line)
}

/// The groups of the program's own goroutines; with `full` those of the runtime too.
pub(crate) fn goroutines(all: &Goroutines, full: bool) -> String {
    let mut text = format!(
        "{} goroutines of {}, {}  {}\n",
        all.goroutines,
        all.unit,
        safe(&all.time),
        painted(DIM, &format!("(stopped for {:.2} ms)", all.pause_ms)),
    );
    text.push_str(&held_up(all, full));
    let (system, own): (Vec<&Group>, Vec<&Group>) =
        all.groups.iter().partition(|group| group.system && !full);
    for group in own {
        text.push('\n');
        text.push_str(&group_of(group, full));
    }
    let hidden: usize = system.iter().map(|group| group.count).sum();
    if hidden > 0 {
        text.push_str(&format!("\n{hidden} of Go's runtime are left out; --full shows them\n"));
    }
    if all.left_out > 0 {
        text.push_str(&format!("\nthe stacks of {} were not read\n", all.left_out));
    }
    text
}

/// Who waits for whom, where that can be told. Many at one channel are often as they should be.
fn held_up(all: &Goroutines, full: bool) -> String {
    let mut text = String::new();
    for circle in &all.deadlocks {
        let heading = painted(RED, "deadlock, probably:");
        let who = numbers(circle);
        text.push_str(&format!("{heading} goroutines {who} wait for locks of each other\n"));
    }
    for wait in all.waits.iter().filter(|wait| full || wait.kind == WaitKind::Lock) {
        let what = match wait.kind {
            WaitKind::Lock => "lock",
            WaitKind::Channel => "channel",
        };
        let more = if wait.count > wait.goroutines.len() { ", …" } else { "" };
        let held = match wait.held_by.as_slice() {
            [] => String::new(),
            [one] => format!("; goroutine {one} probably has it"),
            some => format!("; one of goroutines {} probably has it", numbers(some)),
        };
        text.push_str(&format!(
            "{} at the {what} {:#x}: goroutine {}{more}{held}\n",
            painted(YELLOW, &format!("{} wait", wait.count)),
            wait.address,
            numbers(&wait.goroutines),
        ));
    }
    text
}

fn numbers(ids: &[i64]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn group_of(group: &Group, full: bool) -> String {
    let waiting = match group.waiting_s {
        Some(seconds) => format!(", for up to {}", duration(seconds)),
        None => String::new(),
    };
    let ids: Vec<String> = group.ids.iter().map(ToString::to_string).collect();
    let more = if group.count > group.ids.len() { ", …" } else { "" };
    let heading = format!("{} × {}{waiting}", group.count, safe(&group.doing));
    let mut text = format!(
        "{}  {}\n",
        painted(BOLD, &heading),
        painted(DIM, &format!("goroutine {}{more}", ids.join(", ")))
    );
    let frames = if full { &group.stack[..] } else { telling(&group.stack) };
    text.push_str(&stack(frames, "    "));
    if let Some(started) = &group.started_at {
        text.push_str(&format!("    {} {}\n", painted(DIM, "started by"), place(started)));
    }
    text
}

/// The stack without the runtime's frames at both ends, which are the same for all that wait.
fn telling(stack: &[Frame]) -> &[Frame] {
    let is_runtime = |frame: &&Frame| frame.place.function.starts_with("runtime.");
    let above = stack.iter().take_while(is_runtime).count();
    let below = stack.iter().rev().take_while(is_runtime).count();
    if above + below >= stack.len() { stack } else { &stack[above..stack.len() - below] }
}

fn duration(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.1} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::filtered;
    use godebug_api::image::Wait;

    fn frame(function: &str) -> Frame {
        let function = function.to_owned();
        Frame { place: Place { function, file: "/src/a.go".to_owned(), line: 7 } }
    }

    fn group(count: usize, system: bool) -> Group {
        let stack = ["runtime.gopark", "main.wait", "main.main", "runtime.goexit"].map(frame);
        Group {
            count,
            doing: "chan receive".to_owned(),
            waiting_s: Some(3.25),
            ids: vec![1, 2],
            stack: stack.to_vec(),
            started_at: None,
            system,
        }
    }

    fn all() -> Goroutines {
        Goroutines {
            waits: Vec::new(),
            deadlocks: Vec::new(),
            time: "t".to_owned(),
            unit: "shop".parse().unwrap(),
            pause_ms: 1.5,
            goroutines: 5,
            left_out: 0,
            groups: vec![group(3, false), group(2, true)],
        }
    }

    #[test]
    fn who_is_held_up_and_by_whom_is_said_first() {
        let wait = |kind, held_by| Wait {
            kind,
            address: 0xc0,
            count: 12,
            goroutines: vec![7, 9],
            held_by,
        };
        let waits = vec![wait(WaitKind::Lock, vec![3]), wait(WaitKind::Channel, vec![])];
        let all = Goroutines { waits, deadlocks: vec![vec![7, 3]], ..all() };
        let text = goroutines(&all, false);
        assert!(text.contains("goroutines 7, 3 wait for locks of each other"), "{text}");
        assert!(text.contains("at the lock 0xc0: goroutine 7, 9, …; goroutine 3"), "{text}");
        assert!(!text.contains("channel") && goroutines(&all, true).contains("channel"), "{text}");
    }

    #[test]
    fn the_runtimes_part_is_left_out_unless_it_is_asked_for() {
        let text = filtered(&goroutines(&all(), false), false);
        assert!(text.contains("3 × chan receive, for up to 3.2 s  goroutine 1, 2, …"), "{text}");
        assert!(text.contains("    main.wait (a.go:7)\n    main.main (a.go:7)\n"), "{text}");
        assert!(!text.contains("gopark") && text.contains("2 of Go's runtime"), "{text}");
        let text = filtered(&goroutines(&all(), true), false);
        assert!(text.contains("gopark") && text.matches(" × ").count() == 2, "{text}");
    }

    #[test]
    fn nothing_of_the_service_reaches_the_terminal_raw() {
        let hostile = "\u{1b}[2J\u{202e}x";
        let shown = hit(&Hit {
            time: hostile.to_owned(),
            unit: "shop".parse().unwrap(),
            location: frame(hostile).place,
            goroutine: 7,
            pause_ms: 0.5,
            image: Some(3),
            stack: vec![frame(hostile)],
            variables: vec![
                Value {
                    name: hostile.to_owned(),
                    kind: hostile.to_owned(),
                    value: hostile.to_owned(),
                    unreadable: None,
                },
                Value::unreadable(hostile.to_owned()),
            ],
        });
        let shown = filtered(&shown, true);
        assert!(!shown.contains("\u{1b}[2J") && !shown.contains('\u{202e}'), "{shown}");
        assert!(shown.contains("stopped for 0.50 ms"), "{shown}");
    }
}
