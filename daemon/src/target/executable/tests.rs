//! Synthetic programs, damaged ones, and the output of a real Go toolchain where there is one.

use super::*;
use proptest::prelude::*;
use std::io::Write;
use std::process::Command;

/// One section to be: name, type, flags, content.
type Part<'a> = (&'a str, u32, u64, Vec<u8>);

const PROGBITS: u32 = 1;
const NOTE: u32 = 7;
const NOBITS: u32 = 8;
const COMPRESSED: u64 = 1 << 11;
/// Where the only segment is loaded.
const BASE: u64 = 0x40_0000;

/// A little-endian 64-bit ELF program with these sections and one writable segment over all.
fn elf_file(parts: &[Part<'_>]) -> Vec<u8> {
    let mut names = b"\0.shstrtab\0".to_vec();
    let mut body = Vec::new();
    let mut headers = vec![[0u8; 64].to_vec()];
    for (name, kind, flags, content) in parts {
        body.resize(body.len().next_multiple_of(16), 0);
        headers.push(section(names.len(), *kind, *flags, 0x80 + body.len(), content.len()));
        names.extend(name.bytes().chain([0]));
        body.extend(content);
    }
    headers.push(section(1, 3, 0, 0x80 + body.len(), names.len()));
    body.extend(&names);
    let mut file = elf_header(0x80 + body.len(), headers.len());
    file.extend(program_header(0x80 + body.len()));
    file.resize(0x80, 0);
    file.extend(body);
    file.extend(headers.concat());
    file
}

fn section(name: usize, kind: u32, flags: u64, offset: usize, size: usize) -> Vec<u8> {
    let mut header = (name as u32).to_le_bytes().to_vec();
    header.extend(kind.to_le_bytes());
    for number in [flags, 0, offset as u64, size as u64, 0, 4, 0] {
        header.extend(number.to_le_bytes());
    }
    header
}

fn elf_header(sections_at: usize, sections: usize) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for number in [BASE, 64, sections_at as u64] {
        header.extend(number.to_le_bytes());
    }
    header.extend([0; 4]);
    for number in [64, 56, 1, 64, sections as u16, sections as u16 - 1] {
        header.extend(u16::to_le_bytes(number));
    }
    header
}

fn program_header(size: usize) -> Vec<u8> {
    let mut header = b"\x01\0\0\0\x06\0\0\0".to_vec();
    for number in [0, BASE, BASE, size as u64, size as u64, 0x1000] {
        header.extend(number.to_le_bytes());
    }
    header
}

fn inline_info(version: &str, modules: &str) -> Vec<u8> {
    let mut info = b"\xff Go buildinf:\x08\x02".to_vec();
    info.resize(32, 0);
    let framed = format!("{0}{modules}{0}", "=".repeat(16));
    for text in [version, &framed] {
        let (low, high) = (text.len() as u8 | 0x80, (text.len() >> 7) as u8);
        info.extend([low, high]);
        info.extend(text.bytes());
    }
    info
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn read(bytes: &[u8]) -> Result<GoExecutable, ExecutableError> {
    GoExecutable::read(&file_of(bytes), Path::new("/srv/app"))
}

fn go_program(version: &str, rest: &[Part<'_>]) -> Vec<u8> {
    let info =
        inline_info(version, "path\tshop/cmd\nmod\tshop\tv1.2.3\th1:x=\nbuild\tCGO_ENABLED=1\n");
    let mut parts = vec![(".go.buildinfo", PROGBITS, 0, info)];
    parts.extend_from_slice(rest);
    elf_file(&parts)
}

fn unit(version: u16) -> Vec<u8> {
    [&[40, 0, 0, 0][..], &version.to_le_bytes(), &[0; 34]].concat()
}

#[test]
fn a_program_tells_its_version_module_and_settings() {
    let program = read(&go_program("go1.24.4", &[])).unwrap();
    assert_eq!(program.go_version, GoVersion::new(1, 24));
    assert_eq!(program.go_version_text, "go1.24.4");
    assert_eq!(program.package.as_deref(), Some("shop/cmd"));
    assert_eq!(program.module.as_deref(), Some("shop"));
    assert_eq!(program.module_version.as_deref(), Some("v1.2.3"));
    assert!(program.cgo() && !program.trimpath() && !program.pie && program.optimised());
    assert_eq!(program.architecture, "amd64");
    assert_eq!(program.debug_information, DebugInformation::None);
}

#[test]
fn the_information_is_found_without_section_headers() {
    let mut bytes = go_program("go1.24.4", &[]);
    bytes[40..48].fill(0);
    bytes[60..64].fill(0);
    assert_eq!(read(&bytes).unwrap().module.as_deref(), Some("shop"));
}

#[test]
fn the_pointers_of_old_programs_are_followed() {
    let mut info = b"\xff Go buildinf:\x08\0".to_vec();
    // The information begins at 0x80 in the file; a string header and the string follow it.
    for number in [BASE + 0x80 + 32, 0, BASE + 0x80 + 48, 8] {
        info.extend(u64::to_le_bytes(number));
    }
    info.extend(b"go1.17.3");
    let program = read(&elf_file(&[(".go.buildinfo", PROGBITS, 0, info.clone())])).unwrap();
    assert_eq!((program.go_version, program.module), (GoVersion::new(1, 17), None));
    // A string that claims to be endless.
    info[40..48].fill(0xff);
    let result = read(&elf_file(&[(".go.buildinfo", PROGBITS, 0, info)]));
    assert_eq!(result, Err(ExecutableError::NoVersion));
}

#[test]
fn the_dwarf_version_is_that_of_the_go_code() {
    let dwarf = |go: &str, parts: &[Part<'_>]| read(&go_program(go, parts)).unwrap();
    let plain = |version| (".debug_info", PROGBITS, 0, unit(version));
    for (go, version, expected) in [
        ("go1.24.4", 4, DebugInformation::Dwarf4),
        // A C unit that happens to be the first.
        ("go1.24.4", 5, DebugInformation::Dwarf4),
        ("go1.25.1", 5, DebugInformation::Dwarf5),
        ("go1.25.1", 4, DebugInformation::Dwarf4),
        ("go1.25.1 X:nodwarf5", 5, DebugInformation::Dwarf4),
    ] {
        assert_eq!(dwarf(go, &[plain(version)]).debug_information, expected, "{go} {version}");
    }
    let nothing = dwarf("go1.25.1", &[(".debug_info", NOBITS, 0, vec![0; 64])]);
    assert_eq!(nothing.debug_information, DebugInformation::None);
}

#[test]
fn compressed_debug_information_counts_as_what_it_expands_to() {
    let mut compressed = [1u32.to_le_bytes(), [0; 4]].concat();
    compressed.extend([5000u64, 1].map(u64::to_le_bytes).concat());
    compressed.extend([0; 76]);
    let info = (".debug_info", PROGBITS, COMPRESSED, compressed.clone());
    let program = read(&go_program("go1.27.1", std::slice::from_ref(&info))).unwrap();
    assert_eq!(program.debug_size, DebugSize { stored: 100, expanded: 5000 });
    assert_eq!(program.debug_information, DebugInformation::Dwarf4);
    let addresses = (".debug_addr", PROGBITS, 0, vec![0; 8]);
    let program = read(&go_program("go1.27.1", &[info, addresses])).unwrap();
    assert_eq!(program.debug_information, DebugInformation::Dwarf5);
    // An impossible size is cut to what it could be.
    compressed[8..16].fill(0xff);
    let info = (".debug_info", PROGBITS, COMPRESSED, compressed);
    assert_eq!(read(&go_program("go1.27.1", &[info])).unwrap().debug_size.expanded, 204_800);
}

#[test]
fn build_ids_are_read_and_compared() {
    let note = |owner: &[u8; 4], kind: u32, content: &[u8; 4]| {
        [&[4, 0, 0, 0, 4, 0, 0, 0][..], &kind.to_le_bytes(), owner, content].concat()
    };
    let ids = [
        (".note.gnu.build-id", NOTE, 0, note(b"GNU\0", 3, b"\x01\xab\0\xff")),
        (".note.go.buildid", NOTE, 0, note(b"Go\0\0", 4, b"a/bc")),
    ];
    let program = read(&go_program("go1.24.4", &ids)).unwrap();
    assert_eq!(program.build_ids.gnu.as_deref(), Some("01ab00ff"));
    assert_eq!(program.build_ids.go.as_deref(), Some("a/bc"));
    let other = BuildIds { gnu: None, go: Some("a/bd".to_owned()) };
    assert_eq!(program.build_ids.same_build(&other), Some(false));
    assert_eq!(program.build_ids.same_build(&program.build_ids), Some(true));
    assert_eq!(other.same_build(&BuildIds::default()), None);

    let debug = (".debug_info", PROGBITS, 0, unit(4));
    let symbols = elf_file(&[ids[0].clone(), debug]);
    let symbols = SymbolFile::read(&file_of(&symbols), GoVersion::new(1, 24)).unwrap();
    assert_eq!(symbols.build_ids.same_build(&program.build_ids), Some(true));
    assert_eq!(symbols.debug_information, DebugInformation::Dwarf4);
}

#[test]
fn what_is_no_go_program_is_named() {
    let text = |result: Result<GoExecutable, ExecutableError>| result.unwrap_err().to_string();
    assert_eq!(text(read(b"#!/bin/sh\n")), "it is not an ELF program but a script");
    assert_eq!(text(read(b"")), "it is not an ELF program but an empty or unreadable file");
    assert_eq!(text(read(b"\x7fELF\x02\x01")), "its ELF headers are damaged");
    assert_eq!(
        text(read(&go_program("devel +0123", &[]))),
        "it was built with a Go of unknown version, \"devel +0123\""
    );
    let program = File::open("/bin/true").unwrap();
    let named = |name: &str| text(GoExecutable::read(&program, Path::new(name)));
    assert_eq!(named("/bin/true"), "it is not a Go program");
    assert_eq!(
        named("/usr/bin/python3.11"),
        "it is not a Go program: it is the interpreter of Python"
    );
    assert_eq!(named("/usr/bin/java"), "it is not a Go program: it is the Java virtual machine");
}

#[test]
fn flags_for_all_packages_decide_about_optimisation() {
    let mut program = read(&go_program("go1.24.4", &[])).unwrap();
    for (flags, optimised) in [
        ("all=-N -l", false),
        ("-N -l", true),
        ("all=-l", true),
        ("net=-N", true),
        ("all=-Nx", true),
    ] {
        program.build_settings = vec![("-gcflags".to_owned(), flags.to_owned())];
        assert_eq!(program.optimised(), optimised, "{flags}");
    }
}

#[test]
fn headers_that_claim_the_impossible_cost_nothing() {
    let honest = go_program("go1.27.1", &[(".debug_info", PROGBITS, 0, unit(5))]);
    // Every eight bytes of all headers in turn: huge, odd and zero.
    let sections = usize::try_from(u64::from_le_bytes(honest[40..48].try_into().unwrap())).unwrap();
    let places = (16..0x80).chain(sections..honest.len()).step_by(4);
    for place in places {
        for value in [[0xff; 8], [0x7f; 8], [0; 8]] {
            let mut lying = honest.clone();
            let end = lying.len().min(place + 8);
            lying[place..end].copy_from_slice(&value[..end - place]);
            let _ = read(&lying);
        }
    }
}

#[test]
fn a_sparse_file_of_enormous_size_is_not_read_whole() {
    let mut bytes = elf_file(&[]);
    // The segment and the section table reach to the end of a file of four terabytes.
    bytes[64 + 32..64 + 40].copy_from_slice(&(1u64 << 42).to_le_bytes());
    bytes[60..62].copy_from_slice(&[0xff, 0xfe]);
    let file = file_of(&bytes);
    if file.set_len(1 << 42).is_err() {
        return println!("skipped: no sparse files here");
    }
    let start = std::time::Instant::now();
    assert!(GoExecutable::read(&file, Path::new("/x")).is_err());
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(bytes: Vec<u8>, damage: Vec<(u16, u8)>) {
        let _ = read(&[b"\x7fELF\x02\x01\x01", &bytes[..]].concat());
        let mut program = go_program("go1.27.1", &[(".debug_info", PROGBITS, 0, unit(5))]);
        for (place, value) in damage {
            let place = usize::from(place) % program.len();
            program[place] = value;
        }
        let _ = read(&program);
    }
}

/// Builds a program with the Go that is in PATH, of whatever version.
#[test]
fn a_real_go_program_is_read() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("go.mod"), "module example.com/real\ngo 1.18\n").unwrap();
    std::fs::write(folder.path().join("main.go"), "package main\nfunc main() {}\n").unwrap();
    let build = |name: &str, flags: &[&str]| {
        let mut go = Command::new("go");
        go.args(["build", "-o", name]).args(flags).current_dir(folder.path());
        go.env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("CGO_ENABLED", "0");
        go.env("GOCACHE", std::env::temp_dir().join("godebug-test-go-cache"));
        let built = go.output().ok()?;
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let path = folder.path().join(name);
        Some(GoExecutable::read(&File::open(&path).unwrap(), &path).unwrap())
    };
    let Some(plain) = build("plain", &["-gcflags=all=-N -l"]) else {
        return println!("skipped: no go in PATH");
    };
    assert_eq!(plain.module.as_deref(), Some("example.com/real"));
    assert!(!plain.optimised() && !plain.cgo() && !plain.trimpath());
    assert_ne!(plain.debug_information, DebugInformation::None);
    assert!(plain.build_ids.go.is_some() && plain.debug_size.stored > 0);
    let stripped = build("stripped", &["-ldflags=-s -w", "-trimpath", "-buildmode=pie"]).unwrap();
    assert_eq!(stripped.debug_information, DebugInformation::None);
    assert!(stripped.pie && stripped.trimpath() && stripped.optimised());
}
