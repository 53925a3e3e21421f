//! Where the files were that a program was built from: what an IDE has to know to set a breakpoint in a
//! program that was built on another machine.
//!
//! Go's linker writes the paths of all source files into the table of program counters, whether or not
//! there is debug information (runtime/symtab.go, `pcHeader`; the same since Go 1.18, with two magic
//! numbers). Only the head of the table and its list of files are read.

use super::elf::{Elf, LARGEST_READ};
use godebug_api::documents::Sources;

/// As Go 1.18 writes it, and later ones.
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// The magic number, two zeros, two sizes, then eight words.
const HEADER: u64 = 8 + 8 * 8;
/// Which word tells where the list of files is, and which where what follows it.
const FILES: usize = 5;
const AFTER_FILES: usize = 6;
/// Of more files than these no folder is made out: whose list it is, is the program's.
const MOST_OWN: usize = 4096;
/// Every program has it, and it lies in the folder of Go.
const OF_GO: &str = "/src/runtime/proc.go";
const OF_MODULES: &str = "/pkg/mod/";

/// The folders of this program's sources. `package` is that of its main function, in `module`.
pub(super) fn find(elf: &Elf<'_, '_>, module: Option<&str>, package: Option<&str>) -> Sources {
    let files = files(elf).unwrap_or_default();
    let paths: Vec<&str> = files.split(|byte| *byte == 0).filter_map(absolute).collect();
    let go = paths.iter().find_map(|path| path.strip_suffix(OF_GO));
    let cache = paths.iter().find_map(|path| path.split_once(OF_MODULES));
    let own = |path: &&&str| {
        let is_of_go = go.is_some_and(|go| path.starts_with(go));
        !is_of_go && !path.contains(OF_MODULES) && !path.contains("/vendor/")
    };
    let own: Vec<&str> = paths.iter().filter(own).take(MOST_OWN).copied().collect();
    Sources {
        module: module.and_then(|module| root(&own, module, package?)),
        go: go.map(str::to_owned),
        module_cache: cache.map(|(folder, _)| format!("{folder}/pkg/mod")),
        modules: Vec::new(),
    }
}

/// With -trimpath they begin with a module's name, which no folder does.
fn absolute(path: &[u8]) -> Option<&str> {
    let path = std::str::from_utf8(path).ok()?;
    let plain = path.len() < 4096 && !path.chars().any(char::is_control);
    (plain && path.starts_with('/') && path.ends_with(".go")).then_some(path)
}

fn files<'a>(elf: &Elf<'a, '_>) -> Option<&'a [u8]> {
    // Programs with positions that are not known before have it elsewhere.
    let names = [".gopclntab", ".data.rel.ro.gopclntab"];
    let (at, size) = names.iter().find_map(|name| elf.section(name)?.in_file)?;
    let header = elf.read(at, HEADER.min(size))?;
    let magic = u32::from_le_bytes(header.get(..4)?.try_into().ok()?);
    if !MAGICS.contains(&magic) || header.get(7) != Some(&8) {
        return None;
    }
    let word = |index: usize| {
        let word = header.get(8 + index * 8..16 + index * 8)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    };
    let (from, to) = (word(FILES)?, word(AFTER_FILES)?);
    let length = to.checked_sub(from).filter(|_| to <= size)?;
    elf.read(at.checked_add(from)?, length.min(LARGEST_READ))
}

/// The folder of the module. Below it is the main package, by its path in the module; where that is the
/// module itself, it is the folder that has most of the program's own files below it.
fn root(own: &[&str], module: &str, package: &str) -> Option<String> {
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let below = package.strip_prefix(module)?;
    if !below.is_empty() {
        let main = own.iter().filter_map(|path| folder(path)).find(|it| it.ends_with(below))?;
        return main.strip_suffix(below).map(str::to_owned).filter(|root| !root.is_empty());
    }
    let mut folders: Vec<String> = own.iter().filter_map(|path| folder(path)).collect();
    folders.sort_unstable();
    folders.dedup();
    let below = |root: &str| {
        own.iter()
            .filter(|path| path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')))
            .count()
    };
    // The deepest of those that have as many.
    folders.into_iter().max_by_key(|root| (below(root), root.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_found_by_its_main_package() {
        let own = ["/b/shop/cmd/shop/main.go", "/b/shop/internal/x/x.go", "/b/lib/lib.go"];
        let root = |own: &[&str], package| super::root(own, "example.com/shop", package);
        assert_eq!(root(&own, "example.com/shop/cmd/shop").as_deref(), Some("/b/shop"));
        assert_eq!(root(&own, "example.com/shop/cmd/other"), None);
        let own = ["/b/shop/main.go", "/b/shop/internal/x/x.go", "/b/lib/lib.go"];
        assert_eq!(root(&own, "example.com/shop").as_deref(), Some("/b/shop"));
        assert_eq!(root(&["/b/shop/main.go"], "example.com/shop").as_deref(), Some("/b/shop"));
        assert_eq!(root(&own, "command-line-arguments"), None);
        assert_eq!(root(&[], "example.com/shop"), None);
    }

    #[test]
    fn only_folders_are_believed() {
        assert_eq!(absolute(b"/b/main.go"), Some("/b/main.go"));
        for path in [
            &b"example.com/shop/main.go"[..],
            b"<autogenerated>",
            b"/b/x.s",
            b"/b/\x1b.go",
            b"\xff",
        ] {
            assert_eq!(absolute(path), None);
        }
    }
}
