//! Whether there is room for an image, and how long taking it will stop the process: found out before
//! anything is touched.

use godebug_api::image::PauseLimit;
use godebug_api::{Code, Copying, Refusal, forecast};
use std::path::Path;

const MB: u64 = 1_000_000;
/// What is left to the host beside an image.
const SPARE: u64 = 256 * MB;

/// How much of its own memory a process has, in bytes.
struct Resident {
    anonymous: u64,
    swapped: u64,
    shared: u64,
}

impl Resident {
    fn of(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let bytes = |name: &str| kilobytes(&text, name).unwrap_or(0);
        Some(Self {
            anonymous: bytes("RssAnon"),
            swapped: bytes("VmSwap"),
            shared: bytes("RssShmem"),
        })
    }
}

/// A field of a file in /proc that counts kilobytes, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let field = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(field.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// # Errors
/// Why no image is taken, with what to do.
pub(crate) fn check(pid: i32, max_pause: PauseLimit, copying: Copying) -> Result<(), Refusal> {
    let Some(resident) = Resident::of(pid) else { return Ok(()) };
    within_the_pause(&resident, max_pause, copying)?;
    match copying {
        Copying::Forked => {
            host_has_room(&resident, 1)?;
            unit_has_room(pid, &resident)
        }
        // It is read before it is written, and the program has no part in it.
        Copying::Standing => host_has_room(&resident, 2),
    }
}

fn within_the_pause(
    resident: &Resident,
    max_pause: PauseLimit,
    copying: Copying,
) -> Result<(), Refusal> {
    let pause = forecast::image_pause_ms(resident.anonymous + resident.swapped, copying);
    if pause <= u64::from(max_pause.get()) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Freeze,
        format!(
            "an image would stop the program for about {pause} ms ({} of memory), more than the \
             {max_pause} of --max-pause",
            forecast::megabytes(resident.anonymous)
        ),
        format!("allow it with --max-pause {pause}ms"),
    ))
}

fn host_has_room(resident: &Resident, times: u64) -> Result<(), Refusal> {
    let own = resident.anonymous + resident.swapped + resident.shared;
    let needed = own.saturating_mul(times);
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let Some(available) = kilobytes(&text, "MemAvailable") else { return Ok(()) };
    if needed.saturating_add(SPARE) <= available {
        return Ok(());
    }
    Err(Refusal::host(
        format!(
            "an image needs {} of memory, and the host has {} to spare",
            forecast::megabytes(needed),
            forecast::megabytes(available.saturating_sub(SPARE))
        ),
        "make room, or use `godebugctl attach`, which needs none",
    ))
}

/// What the program writes to while its copy is there counts twice, and is held against its unit.
fn unit_has_room(pid: i32, resident: &Resident) -> Result<(), Refusal> {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let Some(path) = cgroups.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Ok(());
    };
    let mut group = Path::new("/sys/fs/cgroup").join(path);
    let needed = resident.anonymous / 4 + 16 * MB;
    // The limits of all groups above hold too.
    while group.starts_with("/sys/fs/cgroup") {
        let number =
            |name: &str| std::fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        if let (Some(limit), Some(current)) = (number("memory.max"), number("memory.current"))
            && limit.saturating_sub(current) < needed
        {
            return Err(Refusal::target(
                format!(
                    "the unit has {} left of its MemoryMax=, and an image could take {} for a moment",
                    forecast::megabytes(limit.saturating_sub(current)),
                    forecast::megabytes(needed)
                ),
                "raise MemoryMax= of the unit (systemctl set-property --runtime UNIT MemoryMax=…)",
            ));
        }
        if !group.pop() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_too_large_for_the_pause_is_refused_with_figures() {
        let resident = Resident { anonymous: 4_000 * MB, swapped: 0, shared: 0 };
        let check = |resident| within_the_pause(resident, PauseLimit::default(), Copying::Forked);
        let refusal = check(&resident).unwrap_err();
        assert_eq!(refusal.code, Code::Freeze);
        assert!(refusal.message.contains("4000 MB"), "{refusal}");
        assert!(refusal.remedy.contains("--max-pause "), "{}", refusal.remedy);
        let small = Resident { anonymous: 10 * MB, swapped: 0, shared: 0 };
        assert_eq!(check(&small), Ok(()));
        let middle = Resident { anonymous: 500 * MB, swapped: 0, shared: 0 };
        assert_eq!(check(&middle), Ok(()));
        let standing = within_the_pause(&middle, PauseLimit::default(), Copying::Standing);
        assert_eq!(standing.unwrap_err().code, Code::Freeze);
    }

    #[test]
    fn no_image_takes_what_the_host_has_not() {
        let huge = Resident { anonymous: u64::MAX / 4, swapped: 0, shared: 0 };
        assert!(host_has_room(&huge, 1).unwrap_err().message.contains("to spare"));
    }

    #[test]
    fn this_very_process_can_be_read() {
        let own = Resident::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.anonymous > 0);
    }
}
