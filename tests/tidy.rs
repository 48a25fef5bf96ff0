//! The rules of the house as tests: they read the sources and name the line that breaks one.
//!
//! A rule is a function from one file (its path from the root of the repository, its text) to findings; a
//! test runs it over the tree, another shows it text that breaks it. The rules work on words, not on Rust's
//! grammar: comments, strings and, where tests may do more, `#[cfg(test)]` items are blanked first, the rest
//! is looked at as text. What slips through by a macro or a rename is for a reader to catch.

use std::fs;
use std::path::Path;

/// A line of a file and what is wrong there.
type Finding = (usize, String);

/// Modules by floor, lowest first. A module imports from floors below its own and from itself.
const FLOORS: &[&[&str]] = &[
    &["units", "error", "planted"],
    &["geometry", "parity", "format"],
    &["plan"],
    &["engine", "recovery"],
    // The purity line: nothing above this comment knows of files, clocks, threads or the environment.
    &["disk"],
    &["lu"],
    &["serve", "monitor", "sim"],
    &["bin"],
];

/// Floors below the purity line.
const PURE_FLOORS: usize = 4;

/// The map and the rationale belong to no floor.
const WITHOUT_FLOOR: &[&str] = &["lib", "manual"];

/// The only places in `src` that may say `unsafe`; a folder ends with a slash.
const UNSAFE_HOMES: &[&str] = &[
    "src/parity/",
    "src/disk/pins.rs",
    "src/disk/uring.rs",
    "src/disk/buffers.rs",
    "src/disk/sys.rs",
    "src/disk/cpu.rs",
    "src/serve/",
];

/// The only places in `src` that may tell one level from another.
const LEVEL_HOMES: &[&str] = &["src/units.rs", "src/geometry/", "src/plan/", "src/format/"];

/// A `SAFETY` comment stands at most this many lines above its `unsafe`.
const SAFETY_LINES: usize = 6;

// ---- the rules --------------------------------------------------------------------------------------------

/// A module names only modules of lower floors, and itself.
fn imports_go_down(path: &str, text: &str, lib: &str) -> Vec<Finding> {
    let Some(module) = module_of(path) else { return vec![] };
    if WITHOUT_FLOOR.contains(&module.as_str()) {
        return vec![];
    }
    let Some(own) = floor_of(&module) else { return vec![(1, format!("`{module}` has no floor"))] };
    let mut findings = vec![];
    for (line, name) in names_from_the_root(path, &code(text)) {
        // A type that lib.rs re-exports lives where lib.rs took it from.
        let home = reexport_home(lib, &name).unwrap_or(name);
        let allowed = home == module || floor_of(&home).is_some_and(|floor| floor < own);
        if !allowed {
            findings.push((line, format!("`{module}` must not know `{home}`")));
        }
    }
    findings
}

/// Floors below the purity line name nothing of `std` outside their tests.
fn pure_floors_are_pure(path: &str, text: &str) -> Vec<Finding> {
    let floor = module_of(path).and_then(|module| floor_of(&module));
    if floor.is_none_or(|floor| floor >= PURE_FLOORS) || is_test_file(path) {
        return vec![];
    }
    words(&without_tests(&code(text)), "std")
        .into_iter()
        .filter(|found| found.after.starts_with("::"))
        .map(|found| (found.line, "`std` below the purity line: use `core` or `alloc`".into()))
        .collect()
}

/// `unsafe` stands only in its homes.
fn unsafe_stays_home(path: &str, text: &str) -> Vec<Finding> {
    if !path.starts_with("src/") || at_home(path, UNSAFE_HOMES) {
        return vec![];
    }
    words(&code(text), "unsafe")
        .into_iter()
        .map(|found| (found.line, "`unsafe` does not belong here".into()))
        .collect()
}

/// Each `unsafe` block, function, trait and impl says why it is sound.
fn unsafe_is_explained(_path: &str, text: &str) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let explained = |line: usize| {
        let above = &lines[..line - 1];
        let near = above.len().saturating_sub(SAFETY_LINES);
        // A function's documentation may be longer: all of what is attached to the item counts.
        let attached = above
            .iter()
            .rev()
            .take_while(|line| line.trim().starts_with("//") || line.trim().starts_with("#["));
        let mut candidates = above[near..].iter().chain(attached).chain([&lines[line - 1]]);
        candidates.any(|line| line.contains("SAFETY:") || line.contains("# Safety"))
    };
    words(&code(text), "unsafe")
        .into_iter()
        // A function pointer's type and an attribute promise nothing by themselves.
        .filter(|found| {
            !found.after.trim_start().starts_with("fn(") && !found.before.trim_end().ends_with("#[")
        })
        .filter(|found| !explained(found.line))
        .map(|found| (found.line, "`unsafe` without a SAFETY comment".into()))
        .collect()
}

/// No file but the homes of the level tells one level from another.
fn levels_stay_home(path: &str, text: &str) -> Vec<Finding> {
    if !path.starts_with("src/") || at_home(path, LEVEL_HOMES) || is_test_file(path) {
        return vec![];
    }
    words(&without_tests(&code(text)), "Level")
        .into_iter()
        .filter(|found| {
            let variant = found.after.strip_prefix("::").unwrap_or_default();
            ["Raid", "Linear", "*", "{"].iter().any(|start| variant.starts_with(start))
        })
        // To say what a new LU shall be is not to tell one level from another.
        .filter(|found| !found.before.rsplit('\n').next().unwrap_or_default().contains("Lu::create("))
        .map(|found| (found.line, "only geometry, plan and format know what a level is".into()))
        .collect()
}

/// Nothing unfinished, ignored or left over from debugging.
fn nothing_is_unfinished(_path: &str, text: &str) -> Vec<Finding> {
    let code = code(text);
    let mut findings = vec![];
    for name in ["todo", "unimplemented", "dbg"] {
        let calls = words(&code, name).into_iter().filter(|found| found.after.starts_with('!'));
        findings.extend(calls.map(|found| (found.line, format!("`{name}!` must not land"))));
    }
    let ignored = words(&code, "ignore").into_iter().filter(|found| found.before.ends_with("#["));
    findings.extend(ignored.map(|found| (found.line, "a test is run or it is deleted".into())));
    findings
}

/// The library is silent: only the program prints.
fn only_the_program_prints(path: &str, text: &str) -> Vec<Finding> {
    if !path.starts_with("src/") || path.starts_with("src/bin/") {
        return vec![];
    }
    let code = code(text);
    ["print", "println", "eprint", "eprintln"]
        .iter()
        .flat_map(|name| words(&code, name))
        .filter(|found| found.after.starts_with('!'))
        .map(|found| (found.line, "only src/bin prints".into()))
        .collect()
}

/// The first thing in a file says what the file is for.
fn files_introduce_themselves(_path: &str, text: &str) -> Vec<Finding> {
    let first = text.lines().next().unwrap_or_default();
    if first.strip_prefix("//!").is_some_and(|words| !words.trim().is_empty()) {
        vec![]
    } else {
        vec![(1, "the file does not open with a `//!` paragraph".into())]
    }
}

/// The project stands alone: no file names a place that only one machine has.
fn no_path_of_one_machine(_path: &str, text: &str) -> Vec<Finding> {
    // Taken apart, so that this file passes too.
    let (root, beside) = (concat!("/wo", "rk/"), concat!("../sha", "red"));
    let names_root = |line: &str| {
        line.match_indices(root).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || "_.-/}".contains(c))
        })
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| names_root(line) || line.contains(beside))
        .map(|(n, _)| (n + 1, "a path of one machine".into()))
        .collect()
}

// ---- the rules, kept --------------------------------------------------------------------------------------

#[test]
fn modules_import_only_from_lower_floors() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    keep(rust_files("src"), |path, text| imports_go_down(path, text, &lib));
}

#[test]
fn the_core_is_pure() {
    keep(rust_files("src"), pure_floors_are_pure);
}

#[test]
fn unsafe_code_is_where_it_may_be_and_explained() {
    keep(rust_files("src"), unsafe_stays_home);
    keep(rust_files(""), unsafe_is_explained);
}

#[test]
fn only_geometry_plan_and_format_know_levels() {
    keep(rust_files("src"), levels_stay_home);
}

#[test]
fn nothing_unfinished_is_left() {
    keep(rust_files(""), nothing_is_unfinished);
}

#[test]
fn the_library_prints_nothing() {
    // Tests may say how much they proved.
    let sources = rust_files("src").into_iter().filter(|(path, _)| !path.ends_with("tests.rs"));
    keep(sources.collect(), only_the_program_prints);
}

#[test]
fn every_file_says_what_it_is_for() {
    keep(rust_files(""), files_introduce_themselves);
}

#[test]
fn the_project_stands_alone() {
    keep(files(""), no_path_of_one_machine);
}

#[test]
fn every_module_of_the_library_has_a_floor() {
    let lib = code(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let declared: Vec<&str> =
        words(&lib, "mod").iter().map(|found| first_word(found.after.trim_start())).collect();
    assert!(declared.contains(&"units"), "lib.rs declares modules: {declared:?}");
    for module in declared {
        assert!(floor_of(module).is_some() || WITHOUT_FLOOR.contains(&module), "`{module}` has no floor");
    }
}

// ---- the rules, broken ------------------------------------------------------------------------------------

const LIB: &str = "pub use error::{Error, Result};\npub use lu::Lu;\n";

fn lines(findings: &[Finding]) -> Vec<usize> {
    let mut lines: Vec<usize> = findings.iter().map(|finding| finding.0).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn an_import_from_above_or_beside_is_found() {
    let imports = |path: &str, text: &str| lines(&imports_go_down(path, text, LIB));
    let fine = "use crate::units::Lba;\nuse crate::{Error, geometry::{self, Map}};\nuse crate::plan::view;\n\
                // crate::lu\nconst S: &str = \"crate::lu\";\n";
    assert_eq!(imports("src/plan/planner.rs", fine), []);
    assert_eq!(imports("src/plan/mod.rs", "use crate::units::Lba;\nuse crate::engine::Engine;\n"), [2]);
    assert_eq!(imports("src/plan/mod.rs", "fn f() { crate::disk::open() }\n"), [1], "inline");
    assert_eq!(imports("src/geometry/mod.rs", "use crate::parity::xor;\n"), [1], "a neighbour");
    assert_eq!(imports("src/geometry/tests.rs", "use crate::plan::Plan;\n"), [1], "a test file");
    assert_eq!(
        imports("src/engine/mod.rs", "use crate::{\n    units::Lba,\n    lu::{Lu, queue::Queue},\n};\n"),
        [3]
    );
    assert_eq!(imports("src/engine/mod.rs", "use crate::Lu;\n"), [1], "through a re-export");
    assert_eq!(imports("src/engine/mod.rs", "use super::lu::Lu;\n"), [1], "by way of the parent");
    assert_eq!(imports("src/engine/a/b.rs", "use super::super::super::lu;\nuse super::super::lu;\n"), [1]);
    assert_eq!(imports("src/engine/mod.rs", "use crate::wonder::Land;\n"), [1], "an unknown module");
    assert_eq!(imports("src/wonder.rs", ""), [1], "a file without a floor");
    assert_eq!(imports("src/bin/uraid/main.rs", "use uraid::lu;\nuse crate::args;\n"), []);
    assert_eq!(imports("src/manual/mod.rs", "use crate::lu;\n"), []);
}

#[test]
fn std_in_the_core_is_found() {
    let pure = |path: &str, text: &str| lines(&pure_floors_are_pure(path, text));
    assert_eq!(pure("src/engine/mod.rs", "use core::mem;\nuse std::fs;\n"), [2]);
    assert_eq!(pure("src/units.rs", "fn f() -> std::time::Instant {}\n"), [1]);
    let test = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\nuse std::io;\n";
    assert_eq!(pure("src/plan/mod.rs", test), [6]);
    assert_eq!(pure("src/plan/tests.rs", "use std::fs;\n"), []);
    assert_eq!(pure("src/disk/mod.rs", "use std::fs;\n"), []);
    assert_eq!(pure("src/format/mod.rs", "/// like `std::fs`\nfn f() { my_std::g() }\n"), []);
}

#[test]
fn unsafe_abroad_or_unexplained_is_found() {
    assert_eq!(lines(&unsafe_stays_home("src/lu/mod.rs", "fn f() {\n    unsafe { g() }\n}\n")), [2]);
    assert_eq!(lines(&unsafe_stays_home("src/disk/mod.rs", "unsafe fn f() {}\n")), [1]);
    assert_eq!(lines(&unsafe_stays_home("src/disk/uring.rs", "unsafe fn f() {}\n")), []);
    assert_eq!(lines(&unsafe_stays_home("src/lu/mod.rs", "#![deny(unsafe_code)]\n// unsafe\n")), []);
    let explained = |text: &str| lines(&unsafe_is_explained("src/parity/xor.rs", text));
    assert_eq!(explained("fn f() {\n    // SAFETY: g has no preconditions.\n    unsafe { g() }\n}\n"), []);
    assert_eq!(explained("fn f() {\n    // Fast.\n    unsafe { g() }\n}\n"), [3]);
    assert_eq!(explained("// SAFETY: all.\n\n\n\n\n\n\nunsafe impl Send for X {}\n"), [8], "too far above");
    let documented =
        "/// # Safety\n///\n/// a\n/// b\n/// c\n/// d\n/// e\n/// f\n#[inline]\nunsafe fn f() {}\n";
    assert_eq!(explained(documented), []);
    assert_eq!(explained("type Kernel = unsafe fn(&[u8]);\n"), []);
}

#[test]
fn a_level_matched_elsewhere_is_found() {
    let levels = |path: &str, text: &str| lines(&levels_stay_home(path, text));
    assert_eq!(levels("src/engine/mod.rs", "fn f(l: Level) {\n    l == Level::Raid5\n}\n"), [2]);
    assert_eq!(levels("src/bin/uraid/create.rs", "use uraid::units::Level::*;\nLevel::Linear"), [1, 2]);
    assert_eq!(levels("src/lu/mod.rs", "Level::from_md_number(5); Level::ALL"), []);
    assert_eq!(levels("src/plan/mod.rs", "Level::Raid5"), []);
    assert_eq!(levels("src/lu/tests.rs", "Level::Raid5"), []);
    assert_eq!(levels("src/lu/mod.rs", "#[cfg(test)]\nmod t { const L: Level = Level::Raid5; }\n"), []);
}

#[test]
fn leftovers_are_found() {
    let leftovers = |text: &str| lines(&nothing_is_unfinished("src/x.rs", text));
    assert_eq!(leftovers(&format!("fn f() {{ {}!() }}\n{}!(1);\n", "todo", "dbg")), [1, 2]);
    assert_eq!(
        leftovers(&format!("{}!(\"later\")\n#[test]\n#[{}]\nfn f() {{}}\n", "unimplemented", "ignore")),
        [1, 3]
    );
    assert_eq!(leftovers(&format!("#[{} = \"slow\"]\n", "ignore")), [1]);
    assert_eq!(leftovers("// todo!\nfn ignore() {}\nfn todo() {}\n"), []);
}

#[test]
fn printing_in_the_library_is_found() {
    let prints = |path: &str, text: &str| lines(&only_the_program_prints(path, text));
    assert_eq!(prints("src/lu/mod.rs", "println!(\"x\");\nstd::eprint!(\"x\");\n"), [1, 2]);
    assert_eq!(prints("src/bin/uraid/main.rs", "println!(\"x\");\n"), []);
    assert_eq!(prints("src/lu/mod.rs", "let s = \"println!\"; // println!()\nfn print() {}\n"), []);
}

#[test]
fn a_file_without_an_introduction_is_found() {
    assert_eq!(lines(&files_introduce_themselves("src/x.rs", "use core::mem;\n")), [1]);
    assert_eq!(lines(&files_introduce_themselves("src/x.rs", "//!\n//! Late.\n")), [1]);
    assert_eq!(lines(&files_introduce_themselves("src/x.rs", "//! What it is for.\n")), []);
}

#[test]
fn a_path_of_one_machine_is_found() {
    let paths = |text: &str| lines(&no_path_of_one_machine("README.md", text));
    let (inside, beside) = (concat!("/wo", "rk/main"), concat!("../sha", "red/x"));
    assert_eq!(paths(&format!("fine\nsee {inside}\n`{beside}`\n")), [2, 3]);
    assert_eq!(paths(&format!("{inside}\n({inside})\n")), [1, 2]);
    assert_eq!(paths(&format!("$folder{inside} home{inside}\n")), []);
}

#[test]
fn blanking_keeps_lines_and_knows_rust_s_literals() {
    let text =
        "a /* x /* y */ z */ b // c\n\"d \\\" e\" f 'g' '\\'' r#\"h \" i\"# b\"j\" 'life k\n\"two\nlines\" m";
    let code = code(text);
    assert_eq!(code.lines().count(), text.lines().count());
    let kept: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(kept, ["a", "b", "f", "b", "'life", "k", "m"]);
    let cut = without_tests("a;\n#[cfg(test)]\nuse b;\nc;\n#[cfg(test)]\nmod d { e { f } }\ng");
    assert_eq!(cut.split_whitespace().collect::<Vec<_>>(), ["a;", "c;", "g"]);
}

// ---- reading the tree -------------------------------------------------------------------------------------

/// Panics with all that `rule` finds in `files`.
fn keep(files: Vec<(String, String)>, rule: impl Fn(&str, &str) -> Vec<Finding>) {
    assert!(!files.is_empty(), "no files to read");
    let found: Vec<String> = files
        .iter()
        .flat_map(|(path, text)| {
            rule(path, text).into_iter().map(move |(line, what)| format!("{path}:{line}: {what}"))
        })
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &str) -> Vec<(String, String)> {
    files(folder).into_iter().filter(|(path, _)| path.ends_with(".rs")).collect()
}

/// Path from the root and text of all text files below `folder`, but for what is built, found by fuzzing, or
/// git's.
fn files(folder: &str) -> Vec<(String, String)> {
    const FOREIGN: &[&str] = &["target", "corpus", "artifacts", "coverage"];
    let mut found = vec![];
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || name.starts_with(".git") || FOREIGN.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.push((path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// The module at the root that the file `path` is part of: `plan` for `src/plan/planner.rs` and
/// `src/plan.rs`.
fn module_of(path: &str) -> Option<String> {
    let first = path.strip_prefix("src/")?.split('/').next()?;
    Some(first.strip_suffix(".rs").unwrap_or(first).to_owned())
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn at_home(path: &str, homes: &[&str]) -> bool {
    homes.iter().any(|home| if home.ends_with('/') { path.starts_with(home) } else { path == *home })
}

/// Files that only `#[cfg(test)] mod tests;` brings in.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

// ---- reading Rust as words --------------------------------------------------------------------------------

/// `text` with comments, strings and characters turned into blanks; lines stay where they are.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (taken, left) = rest.split_at(literal_length(rest));
        out.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = left;
        if taken.is_empty() {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// The bytes of the comment, string or character that `rest` starts with; 0 if it starts with none.
fn literal_length(rest: &str) -> usize {
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        block_comment_length(rest)
    } else if rest.starts_with('"') {
        quoted_length(rest, '"')
    } else if let Some(raw) = rest.strip_prefix('r') {
        raw_string_length(raw).map_or(0, |length| 1 + length)
    } else if rest.starts_with('\'') {
        let mut chars = rest.chars().skip(1);
        match (chars.next(), chars.next()) {
            (Some('\\'), _) => quoted_length(rest, '\''),
            (Some(c), Some('\'')) => 2 + c.len_utf8(),
            _ => 0, // a lifetime
        }
    } else {
        0
    }
}

/// The length of what follows the `r` of a raw string: quote and end are marked by as many `#`.
fn raw_string_length(rest: &str) -> Option<usize> {
    let marks = rest.bytes().take_while(|&byte| byte == b'#').count();
    let inside = rest[marks..].strip_prefix('"')?;
    let end = format!("\"{}", &rest[..marks]);
    Some(inside.find(&end).map_or(rest.len(), |at| marks + 1 + at + end.len()))
}

fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        let tail = &rest[at..];
        if tail.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if tail.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            match tail.chars().next() {
                Some(c) => at += c.len_utf8(),
                None => return at,
            }
        }
    }
}

/// Up to and with the `quote` that no backslash precedes.
fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `code` with each item under `#[cfg(test)]` or `#[cfg(all(test, ...))]` turned into blanks.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    let starts = code.match_indices("#[cfg(test)]").chain(code.match_indices("#[cfg(all(test"));
    for (start, _) in starts {
        let end = start + item_length(&code[start..]);
        let blank: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        // A multi-byte character becomes one blank: keep the byte count, which later matches rely on.
        let padding = " ".repeat(end - start - blank.len());
        out.replace_range(start..end, &format!("{blank}{padding}"));
    }
    out
}

/// An item ends with its outermost `}`, or with a `;` outside of any bracket.
fn item_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// One occurrence of a word.
struct Found<'a> {
    /// Counted from 1.
    line: usize,
    before: &'a str,
    after: &'a str,
}

/// Where `word` stands in `code` as a whole word.
fn words<'a>(code: &'a str, word: &str) -> Vec<Found<'a>> {
    code.match_indices(word)
        .map(|(at, _)| (at, &code[..at], &code[at + word.len()..]))
        .filter(|(_, before, after)| !before.ends_with(is_word_char) && !after.starts_with(is_word_char))
        .map(|(at, before, after)| Found { line: line_of(code, at), before, after })
        .collect()
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].matches('\n').count()
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn first_word(text: &str) -> &str {
    &text[..text.find(|c| !is_word_char(c)).unwrap_or(text.len())]
}

/// The names that the code of the file `path` takes from the root of the crate, by `crate::` or enough
/// `super::`.
///
/// The program is a crate of its own: its `crate::` is not the library's root, and names nothing here.
fn names_from_the_root(path: &str, code: &str) -> Vec<(usize, String)> {
    if path.starts_with("src/bin/") {
        return vec![];
    }
    let mut names = vec![];
    for found in words(code, "crate") {
        if let Some(path) = found.after.strip_prefix("::") {
            names
                .extend(heads(path).into_iter().map(|(at, name)| (line_of(path, at) - 1 + found.line, name)));
        }
    }
    // `super::` leads out of the module from a file at depth n (src/plan/mod.rs and src/plan.rs: 1) when said
    // n times; inside an inline module it leads less far, so only names of floors count.
    let depth = path.trim_end_matches("/mod.rs").matches('/').count();
    let climb = "super::".repeat(depth);
    for found in words(code, "super").iter().filter(|found| !found.before.ends_with("super::")) {
        let whole = &code[found.before.len()..];
        if let Some(path) = whole.strip_prefix(&climb) {
            let outside = heads(path).into_iter().filter(|(_, name)| floor_of(name).is_some());
            names.extend(outside.map(|(at, name)| (line_of(path, at) - 1 + found.line, name)));
        }
    }
    names
}

/// The first names of a path, or of each path in a `{...}` group, with their places.
fn heads(path: &str) -> Vec<(usize, String)> {
    if !path.starts_with('{') {
        return vec![(0, first_word(path).to_owned())];
    }
    let mut heads = vec![];
    let (mut depth, mut expecting) = (0, false);
    for (at, c) in path.char_indices() {
        match c {
            '{' => (depth, expecting) = (depth + 1, depth == 0),
            '}' => depth -= 1,
            ',' => expecting = depth == 1,
            c if expecting && is_word_char(c) => {
                heads.push((at, first_word(&path[at..]).to_owned()));
                expecting = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

/// The module from which `lib` (the text of lib.rs) re-exports `name` at the root.
fn reexport_home(lib: &str, name: &str) -> Option<String> {
    let lib = code(lib);
    lib.split(';').find_map(|statement| {
        let at = statement.find("pub use ")?;
        let path = &statement[at + "pub use ".len()..];
        let path = path.strip_prefix("crate::").unwrap_or(path);
        let named = words(path, name).iter().any(|found| !found.after.starts_with("::"));
        named.then(|| first_word(path).to_owned())
    })
}
