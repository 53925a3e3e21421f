//! Reading processes from outside: identity, state, and whether the program text in memory is still
//! what the file on disk says.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use anyhow::{Context, Result, ensure};

use crate::{command::tool, files, host::cgroup_root};

/// A process that was seen running; the start time tells it from a later one with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number on the test machine.
    pub pid: u32,
    /// Its number on the host.
    pub inner_pid: u32,
    pub start_time: u64,
    pub name: String,
}

impl Process {
    /// None if the process is gone.
    pub(crate) fn read(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let inner_pid = field(&status, "NSpid")?.split_whitespace().last()?.parse().ok()?;
        let (start_time, _) = start_time_and_state(pid).ok()?;
        Some(Self { pid, inner_pid, start_time, name: field(&status, "Name")?.to_owned() })
    }

    pub fn is_alive(&self) -> bool {
        start_time_and_state(self.pid)
            .is_ok_and(|(start, state)| start == self.start_time && state != 'Z')
    }

    pub fn state(&self) -> Result<char> {
        start_time_and_state(self.pid).map(|(_, state)| state)
    }

    /// The number of the process that traces it, 0 if none does.
    pub fn tracer(&self) -> Result<u32> {
        let status = files::read(format!("/proc/{}/status", self.pid))?;
        let tracer = field(&status, "TracerPid").context("no TracerPid")?;
        tracer.parse().context("TracerPid is not a number")
    }

    pub(crate) fn is_go(&self) -> bool {
        // The mark is in every Go executable since Go 1.13, stripped or not. grep, because this crate
        // is built without optimisation and the files are large.
        let executable = format!("/proc/{}/exe", self.pid);
        tool("grep", &["-qaF", " Go buildinf:", &executable]).is_ok()
    }

    /// What is wrong about it if no debugger is to be seen any more.
    pub(crate) fn traces_of_debugging(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let whose = format!("process {} ({})", self.inner_pid, self.name);
        let tracer = self.tracer()?;
        if tracer != 0 {
            found.push(format!("{whose} is still traced, by process {tracer}"));
        }
        for task in fs::read_dir(format!("/proc/{}/task", self.pid)).context("listing threads")? {
            let path = task?.path();
            let Ok((_, state)) = parse_stat(&path.join("stat")) else { continue };
            if matches!(state, 't' | 'T') {
                found.push(format!("{whose}: thread {:?} is stopped ({state})", path.file_name()));
            }
        }
        if self.is_frozen()? {
            found.push(format!("{whose} is frozen with its control group"));
        }
        for difference in self.changed_text()? {
            found.push(format!("{whose}: {difference}"));
        }
        Ok(found)
    }

    /// With its control group; what is frozen looks asleep in every other way.
    pub fn is_frozen(&self) -> Result<bool> {
        let groups = files::read(format!("/proc/{}/cgroup", self.pid))?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
        let group = cgroup_root()?.join(group.context("no control group")?);
        Ok(files::read(group.join("cgroup.events"))?.contains("frozen 1"))
    }

    /// Compares every executable file mapping with its file.
    pub fn changed_text(&self) -> Result<Vec<String>> {
        let maps = files::read(format!("/proc/{}/maps", self.pid))?;
        let memory = File::open(format!("/proc/{}/mem", self.pid)).context("opening its memory")?;
        let mut found = Vec::new();
        let mut compared = 0;
        for mapping in maps.lines().filter_map(Mapping::parse).filter(Mapping::is_text) {
            let path =
                format!("/proc/{}/map_files/{:x}-{:x}", self.pid, mapping.start, mapping.end);
            let file =
                File::open(&path).with_context(|| format!("opening {path} ({})", mapping.name))?;
            let (in_memory, in_file) =
                (mapping.read(&memory, mapping.start)?, mapping.read(&file, mapping.offset)?);
            compared += in_file.len();
            // The last page of a mapping is zeroes beyond the file's end.
            if in_memory.get(..in_file.len()) == Some(&in_file[..]) {
                continue;
            }
            let differences: Vec<usize> =
                (0..in_file.len()).filter(|at| in_memory.get(*at) != in_file.get(*at)).collect();
            if let Some(first) = differences.first() {
                found.push(format!(
                    "{} bytes of {} differ from the file, the first at {:#x}: {:#04x}, in the file {:#04x}",
                    differences.len(), mapping.name, mapping.start + *first as u64, in_memory[*first], in_file[*first],
                ));
            }
        }
        ensure!(compared > 0, "process {} has no executable mapping to compare", self.pid);
        Ok(found)
    }
}

struct Mapping<'a> {
    start: u64,
    end: u64,
    permissions: &'a str,
    offset: u64,
    inode: &'a str,
    name: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            permissions: words.next()?,
            offset: u64::from_str_radix(words.next()?, 16).ok()?,
            inode: words.nth(1)?,
            name: words.next().unwrap_or_default(),
        })
    }

    fn is_text(&self) -> bool {
        self.permissions.contains('x') && self.inode != "0"
    }

    fn read(&self, from: &File, offset: u64) -> Result<Vec<u8>> {
        let mut bytes =
            vec![0; usize::try_from(self.end - self.start).context("a mapping too large")?];
        let mut filled = 0;
        while filled < bytes.len() {
            let count = from
                .read_at(&mut bytes[filled..], offset + filled as u64)
                .with_context(|| format!("reading the text of {}", self.name))?;
            if count == 0 {
                break;
            }
            filled += count;
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn start_time_and_state(pid: u32) -> Result<(u64, char)> {
    parse_stat(Path::new(&format!("/proc/{pid}/stat")))
}

fn parse_stat(path: &Path) -> Result<(u64, char)> {
    let stat = files::read(path)?;
    // The name before the bracket may hold anything.
    let (_, rest) = stat.rsplit_once(')').context("a stat line without a name")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    let state = words.first().and_then(|word| word.chars().next()).context("no state")?;
    let start = words
        .get(19)
        .context("no start time")?
        .parse()
        .context("the start time is not a number")?;
    Ok((start, state))
}

/// All processes in a cgroup and those below it.
pub(crate) fn in_cgroup(path: &Path) -> Vec<Process> {
    let listed = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<Process> =
        listed.lines().filter_map(|line| line.parse().ok()).filter_map(Process::read).collect();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(in_cgroup(&entry.path()));
        }
    }
    found
}
