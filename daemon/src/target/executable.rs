//! What a Go executable says about itself: the Go it was built with, its module and build settings,
//! what it holds for a debugger, and its build IDs.
//!
//! The file is the target's and is not trusted: see `elf` for the bounds. Only what is needed is
//! read, a few kilobytes of a program of any size. Reading may still block where the file system
//! does, so callers keep it off the event loop.

mod build_info;
mod elf;
mod sources;

use build_info::{Layout, Modules};
use elf::{Elf, LARGEST_READ, Source};
use godebug_api::control::LONGEST_BUILD_INFO;
use godebug_api::documents::{BuildInfo, DebugInformation, Sources};
use godebug_core::delve::GoVersion;
use object::elf as values;
use std::fs::File;
use std::path::Path;

/// Why a file is not a Go program that can be debugged. The text continues "NAME is no good: …" and
/// also stands alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecutableError {
    #[error("it is not an ELF program but {0}")]
    NotElf(&'static str),
    #[error("its ELF headers are damaged")]
    Damaged,
    #[error("it is not a Go program{0}")]
    NotGo(Seems),
    #[error("it is a Go program, but its build information is damaged or was removed")]
    NoVersion,
    #[error("it was built with a Go of unknown version, {0:?}")]
    UnknownVersion(String),
}

/// What a program without Go's build information seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seems {
    /// The interpreter of this language: what the unit runs is a script.
    Interpreter(&'static str),
    /// It runs on this virtual machine.
    Machine(&'static str),
    Gccgo,
    Packed,
    Unknown,
}

impl std::fmt::Display for Seems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interpreter(language) => write!(f, ": it is the interpreter of {language}"),
            Self::Machine(name) => write!(f, ": it is {name}"),
            Self::Gccgo => f.write_str(" of the Go toolchain: gccgo built it"),
            Self::Packed => f.write_str(" as it stands: it is packed with UPX"),
            Self::Unknown => Ok(()),
        }
    }
}

/// A Go program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoExecutable {
    /// As the linker wrote it: `go1.24.4`, `go1.25.1 X:nodwarf5`, `devel go1.28-…`.
    pub go_version_text: String,
    pub go_version: GoVersion,
    /// The import path of the main package.
    pub package: Option<String>,
    pub module: Option<String>,
    /// `(devel)` for one that was built from a working tree.
    pub module_version: Option<String>,
    /// `-ldflags`, `CGO_ENABLED`, `vcs.revision` and so on. None were recorded before Go 1.18.
    pub build_settings: Vec<(String, String)>,
    pub pie: bool,
    pub debug_information: DebugInformation,
    pub debug_size: DebugSize,
    pub build_ids: BuildIds,
    /// Where it was built.
    pub sources: Sources,
    /// As `GOARCH` names it.
    pub architecture: String,
}

/// The size of the sections with debug information, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DebugSize {
    /// In the file.
    pub stored: u64,
    /// After decompression, as the file claims: what a debugger has to read.
    pub expanded: u64,
}

/// What tells one build from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildIds {
    /// GNU's, in hexadecimal; Go's linker writes it since 1.24, an external linker before too.
    pub gnu: Option<String>,
    /// Go's own.
    pub go: Option<String>,
}

impl BuildIds {
    /// Whether both are of one build; `None` when they have no kind of ID in common.
    pub fn same_build(&self, other: &Self) -> Option<bool> {
        let both = |a: &Option<String>, b: &Option<String>| Some(a.as_ref()? == b.as_ref()?);
        both(&self.gnu, &other.gnu).or_else(|| both(&self.go, &other.go))
    }
}

/// A file that may have the debug information of a program that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolFile {
    pub build_ids: BuildIds,
    pub debug_information: DebugInformation,
    pub debug_size: DebugSize,
}

impl SymbolFile {
    /// Reads what may be a program or what `objcopy --only-keep-debug` left of one. `go` is the Go
    /// of the program that it is for.
    pub fn read(file: &File, go: GoVersion) -> Result<Self, ExecutableError> {
        let source = Source::new(file);
        let elf = open(&source)?;
        Ok(Self {
            build_ids: build_ids(&elf),
            debug_information: debug_information(&elf, go, false),
            debug_size: debug_size(&elf),
        })
    }
}

impl GoExecutable {
    /// Reads an executable. Its path only helps to say what it is when it is no Go program.
    pub fn read(file: &File, path: &Path) -> Result<Self, ExecutableError> {
        let source = Source::new(file);
        let elf = open(&source)?;
        let Some((header, end)) = find_build_info(&elf) else {
            return Err(ExecutableError::NotGo(seems(&source, &elf, path)));
        };
        let (version, modules) =
            read_build_info(&elf, header, end).ok_or(ExecutableError::NoVersion)?;
        let go_version = version
            .parse()
            .map_err(|_| ExecutableError::UnknownVersion(version.chars().take(60).collect()))?;
        let without_dwarf5 = without_dwarf5(&version, &modules.settings);
        let mut sources =
            sources::find(&elf, modules.module.as_deref(), modules.package.as_deref());
        let is_trimmed = |(key, value): &(String, String)| key == "-trimpath" && value == "true";
        if modules.settings.iter().any(is_trimmed) {
            sources.modules = modules.dependencies;
        }
        Ok(Self {
            debug_information: debug_information(&elf, go_version, without_dwarf5),
            debug_size: debug_size(&elf),
            build_ids: build_ids(&elf),
            sources,
            architecture: architecture(&elf),
            pie: elf.is_pie(),
            go_version_text: version,
            go_version,
            package: modules.package,
            module: modules.module,
            module_version: modules.version,
            build_settings: modules.settings,
        })
    }

    /// A build setting by its key, such as `CGO_ENABLED` or `-ldflags`.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.build_settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn vcs_revision(&self) -> Option<&str> {
        self.setting("vcs.revision")
    }

    /// The time of the revision, RFC 3339.
    pub fn vcs_time(&self) -> Option<&str> {
        self.setting("vcs.time")
    }

    /// Whether the working tree had changes that the revision has not.
    pub fn vcs_modified(&self) -> Option<bool> {
        self.setting("vcs.modified").map(|value| value == "true")
    }

    pub fn trimpath(&self) -> bool {
        self.setting("-trimpath") == Some("true")
    }

    pub fn cgo(&self) -> bool {
        self.setting("CGO_ENABLED") == Some("1")
    }

    /// Not recorded in a program that was built with `-trimpath`.
    pub fn ldflags(&self) -> Option<&str> {
        self.setting("-ldflags")
    }

    pub fn gcflags(&self) -> Option<&str> {
        self.setting("-gcflags")
    }

    /// For whoever has the source; `None` when that would be more than a gateway takes.
    pub fn build_info(&self) -> Option<BuildInfo> {
        let build = BuildInfo {
            go_version: self.go_version_text.clone(),
            module: self.module.clone(),
            vcs_revision: self.vcs_revision().map(str::to_owned),
            vcs_modified: self.vcs_modified(),
            trimpath: self.trimpath(),
            sources: self.sources.clone(),
        };
        let length = serde_json::to_string(&build).map_or(usize::MAX, |text| text.len());
        (length <= LONGEST_BUILD_INFO).then_some(build)
    }

    /// Whether the compiler optimised the program or most of it: `-N` counts when it was given for
    /// all packages, as `-gcflags=all=-N`; without a pattern it is for the named package only.
    pub fn optimised(&self) -> bool {
        let flags = self.gcflags().unwrap_or_default();
        let Some((pattern, flags)) = flags.split_once('=') else { return true };
        let everywhere = matches!(pattern, "all" | "..." | "./...");
        !(everywhere && flags.split_ascii_whitespace().any(|flag| flag == "-N"))
    }
}

fn open<'a, 'f>(source: &'a Source<'f>) -> Result<Elf<'a, 'f>, ExecutableError> {
    let beginning = source.beginning(64);
    if !beginning.starts_with(&values::ELFMAG) {
        return Err(ExecutableError::NotElf(match beginning {
            [] => "an empty or unreadable file",
            [b'#', b'!', ..] => "a script",
            _ => "a file of another kind",
        }));
    }
    Elf::parse(source).ok_or(ExecutableError::Damaged)
}

/// Where the build information's header begins in the file, and where its section or segment ends.
fn find_build_info(elf: &Elf<'_, '_>) -> Option<(u64, u64)> {
    let section = elf.section(".go.buildinfo").and_then(|section| section.in_file);
    // A program whose section headers were removed has it in a data segment, near the beginning.
    let segments = elf.data_segments().take(4).map(|segment| (segment.offset, segment.size));
    section.into_iter().chain(segments).find_map(|(offset, size)| {
        let data = elf.read(offset, size.min(LARGEST_READ))?;
        let at = build_info::find(data)? as u64;
        Some((offset.checked_add(at)?, offset.checked_add(size)?))
    })
}

/// The Go version and the modules.
fn read_build_info(elf: &Elf<'_, '_>, header: u64, end: u64) -> Option<(String, Modules)> {
    let size = end.checked_sub(header)?.min(LARGEST_READ);
    let (header, rest) = elf.read(header, size)?.split_at_checked(build_info::HEADER)?;
    let (version, modules) = match build_info::layout(header)? {
        Layout::Inline => build_info::inline_strings(rest)?,
        // Go before 1.18, which no supported dlv debugs on another than the common kind of machine.
        Layout::Pointers { size: 8, little_endian: true } => {
            let version = pointed_string(elf, header.get(16..24)?)?;
            (version, pointed_string(elf, header.get(24..32)?).unwrap_or_default())
        }
        Layout::Pointers { .. } => return None,
    };
    let version = crate::target::process::printable(std::str::from_utf8(version).ok()?);
    (!version.is_empty()).then(|| (version, build_info::modules(modules)))
}

/// The string whose Go header (address and length) the pointer leads to.
fn pointed_string<'a>(elf: &Elf<'a, '_>, pointer: &[u8]) -> Option<&'a [u8]> {
    let word = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    let header = elf.read_address(word(pointer)?, 16)?;
    elf.read_address(word(&header[..8])?, word(&header[8..])?)
}

/// Whether the build was told not to make DWARF 5, which Go makes since 1.25 otherwise.
fn without_dwarf5(version: &str, settings: &[(String, String)]) -> bool {
    let named = |list: &str| list.split([',', ' ', ':']).any(|name| name == "nodwarf5");
    named(version) || settings.iter().any(|(key, value)| key == "GOEXPERIMENT" && named(value))
}

/// What the file holds for a debugger. The version is that of the Go code: a program with cgo may
/// also have parts that the C compiler made with another one.
fn debug_information(elf: &Elf<'_, '_>, go: GoVersion, without_dwarf5: bool) -> DebugInformation {
    let section = elf.section(".debug_info").or_else(|| elf.section(".zdebug_info"));
    let Some((section, (offset, size))) = section.and_then(|s| Some((s, s.in_file?))) else {
        return DebugInformation::None;
    };
    if size == 0 {
        return DebugInformation::None;
    }
    if go < GoVersion::new(1, 25) || without_dwarf5 {
        return DebugInformation::Dwarf4;
    }
    let compressed = section.expanded.is_some() || section.name.starts_with(b".z");
    let version = if compressed {
        None
    } else {
        let header = elf.read(offset, size.min(16)).unwrap_or_default();
        first_unit_version(header, elf.little_endian)
    };
    match version {
        Some(version) if version < 5 => DebugInformation::Dwarf4,
        Some(_) => DebugInformation::Dwarf5,
        // Compressed sections are not unpacked here; this one exists in DWARF 5 only.
        None if elf.section(".debug_addr").or_else(|| elf.section(".zdebug_addr")).is_some() => {
            DebugInformation::Dwarf5
        }
        None => DebugInformation::Dwarf4,
    }
}

/// The DWARF version of the compilation unit that begins here.
fn first_unit_version(header: &[u8], little_endian: bool) -> Option<u16> {
    // A length of all ones says that the real one follows in 64 bits.
    let at = if header.starts_with(&[0xff; 4]) { 12 } else { 4 };
    let bytes: [u8; 2] = header.get(at..at + 2)?.try_into().ok()?;
    let version = if little_endian { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) };
    (2..=5).contains(&version).then_some(version)
}

fn debug_size(elf: &Elf<'_, '_>) -> DebugSize {
    let mut total = DebugSize::default();
    for section in &elf.sections {
        let is_debug =
            section.name.starts_with(b".debug_") || section.name.starts_with(b".zdebug_");
        let (true, Some((_, size))) = (is_debug, section.in_file) else { continue };
        total.stored = total.stored.saturating_add(size);
        total.expanded = total.expanded.saturating_add(section.expanded.unwrap_or(size));
    }
    total
}

fn build_ids(elf: &Elf<'_, '_>) -> BuildIds {
    const GNU_BUILD_ID: u32 = 3;
    const GO_BUILD_ID: u32 = 4;
    // Real ones have 20 and 83 bytes.
    let note = |owner, kind| elf.note(owner, kind).filter(|id| (1..=256).contains(&id.len()));
    let gnu = note(b"GNU", GNU_BUILD_ID);
    let go = note(b"Go", GO_BUILD_ID);
    BuildIds {
        gnu: gnu.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect()),
        go: go.map(|id| crate::target::process::printable(&String::from_utf8_lossy(id))),
    }
}

fn architecture(elf: &Elf<'_, '_>) -> String {
    let name = match (elf.machine, elf.little_endian, elf.wide) {
        (values::EM_X86_64, ..) => "amd64",
        (values::EM_AARCH64, ..) => "arm64",
        (values::EM_386, ..) => "386",
        (values::EM_ARM, ..) => "arm",
        (values::EM_PPC64, true, _) => "ppc64le",
        (values::EM_PPC64, false, _) => "ppc64",
        (values::EM_RISCV, _, true) => "riscv64",
        (values::EM_LOONGARCH, _, true) => "loong64",
        (values::EM_S390, _, true) => "s390x",
        (machine, ..) => return format!("ELF machine {}", machine.0),
    };
    name.to_owned()
}

/// A guess for a person, from the file's content and name.
fn seems(source: &Source<'_>, elf: &Elf<'_, '_>, path: &Path) -> Seems {
    if elf.section(".go_export").is_some() {
        return Seems::Gccgo;
    }
    if source.beginning(512).windows(4).any(|bytes| bytes == b"UPX!") {
        return Seems::Packed;
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || ".-_".contains(c));
    match stem {
        "python" | "pypy" => Seems::Interpreter("Python"),
        "perl" => Seems::Interpreter("Perl"),
        "ruby" => Seems::Interpreter("Ruby"),
        "php" | "php-fpm" => Seems::Interpreter("PHP"),
        "lua" | "luajit" => Seems::Interpreter("Lua"),
        "sh" | "bash" | "dash" | "zsh" | "busybox" => Seems::Interpreter("shell scripts"),
        "node" | "nodejs" | "bun" | "deno" => Seems::Interpreter("JavaScript"),
        "java" => Seems::Machine("the Java virtual machine"),
        "beam.smp" | "beam" => Seems::Machine("the Erlang virtual machine"),
        "dotnet" | "mono" | "mono-sgen" => Seems::Machine("the .NET runtime"),
        _ => Seems::Unknown,
    }
}

#[cfg(test)]
mod tests;
