//! Renders docs/guarantees.md from the results: between its marks, what was measured.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use godebug_tests::{Host, fault_points};
use serde_json::Value;

use crate::{
    faults::{self, Fault},
    points::{Group, IDLE, Point},
    results::Results,
};

const BEGIN: &str = "<!-- results: written by `faults --write` -->";
const END: &str = "<!-- end of results -->";

fn document() -> PathBuf {
    fault_points::workspace().join("docs/guarantees.md")
}

/// What the results were found on.
pub(crate) fn circumstances(host: &Host) -> Result<String> {
    let first = |line: &str| -> Result<String> { Ok(host.ok(line)?.trim().to_owned()) };
    Ok(format!(
        "{}; Debian {} ({}) in a container, kernel {}, {}, firewalld {}, dlv {}.",
        first("date -u +%F")?,
        host.suite().name(),
        first("cat /etc/debian_version")?,
        first("uname -r")?,
        first("systemctl --version | head -n 1")?,
        first("firewall-cmd --version")?,
        first("dlv version | sed -n 's/^Version: //p'")?,
    ))
}

pub(crate) fn write(results: &Results, circumstances: &str) -> Result<()> {
    let path = document();
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (before, rest) = text.split_once(BEGIN).context("the document has no place for results")?;
    let (_, after) = rest.split_once(END).context("the place for results has no end")?;
    let results = render(results, circumstances);
    fs::write(&path, format!("{before}{BEGIN}\n\n{results}\n{END}{after}"))
        .with_context(|| format!("writing {}", path.display()))
}

fn render(results: &Results, circumstances: &str) -> String {
    let all = faults::ALL.iter().flat_map(|fault| {
        results.points().iter().filter_map(|point| results.cell(fault.name, &point.name))
    });
    let count = |outcome: &str| all.clone().filter(|cell| cell["outcome"] == outcome).count();
    let (passed, failed, none) = (count("passed"), count("failed"), count("not applicable"));
    let (stayed, died) = (count("folder stayed"), count("died"));
    [
        format!("{circumstances} Build {}.\n", results.build()),
        format!(
            "{} cells: {passed} passed, {failed} failed, {stayed} left their session's folder, and nothing else, to \
             the next godebugd (nothing had been taken), at {died} the service died, as named above, {none} could not happen there (what was to be broken was \
             not there, or not there any more). In brackets, and as \"not run\", stands one point of each moment: nothing happens \
             between those that are left out and the ones before them. A dash: no such point, or not tried there.\n",
            passed + failed + stayed + died + none
        ),
        table(results),
        failures(results),
        cycles(results),
        points(results),
    ]
    .join("\n")
}

fn table(results: &Results) -> String {
    let of = |group: Group| of_group(results, group).filter(|point| point.is_new()).count();
    let heads: Vec<String> =
        Group::ALL.iter().map(|group| format!("{} ({})", group.name(), of(*group))).collect();
    let mut text =
        format!("| fault | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(Group::ALL.len()));
    for fault in faults::ALL {
        let cells: Vec<String> =
            Group::ALL.iter().map(|group| summary(results, fault, *group)).collect();
        text.push_str(&format!("| `{}`: {} | {} |\n", fault.name, fault.says, cells.join(" | ")));
    }
    text
}

fn of_group(results: &Results, group: Group) -> impl Iterator<Item = &Point> {
    results.points().iter().filter(move |point| point.group == group)
}

/// One cell of the table: all points of a group, one of each moment and whatever was tried besides.
fn summary(results: &Results, fault: &Fault, group: Group) -> String {
    let is_known = |point: &Point| results.cell(fault.name, &point.name).is_some();
    let possible: Vec<&Point> = of_group(results, group)
        .filter(|point| fault.applies_to(point) && (point.is_new() || is_known(point)))
        .collect();
    if possible.is_empty() {
        return "–".to_owned();
    }
    let cells: Vec<&Value> =
        possible.iter().filter_map(|point| results.cell(fault.name, &point.name)).collect();
    let missing = possible.len() - cells.len();
    let ran: Vec<&Value> =
        cells.into_iter().filter(|cell| cell["outcome"] != "not applicable").collect();
    let with = |outcome: &str| ran.iter().filter(|cell| cell["outcome"] == outcome).count();
    let (stayed, died) = (with("folder stayed"), with("died"));
    let passed: Vec<&&Value> = ran.iter().filter(|cell| cell["outcome"] == "passed").collect();
    if ran.is_empty() {
        return if missing == possible.len() { "not run".to_owned() } else { "–".to_owned() };
    }
    let worst = passed.iter().filter_map(|cell| cell["milliseconds"].as_f64()).fold(0.0, f64::max);
    let mut text = format!("{}/{}", passed.len(), ran.len() - stayed - died);
    text.push_str(if passed.len() + stayed + died == ran.len() { " ✓" } else { " ✗" });
    if !passed.is_empty() && !fault.reboots {
        text.push_str(&format!(" worst {worst:.0} ms"));
    }
    if stayed > 0 {
        text.push_str(&format!(", {stayed} the folder stayed"));
    }
    if died > 0 {
        text.push_str(&format!(", {died} died"));
    }
    if missing > 0 {
        text.push_str(&format!(", {missing} not run"));
    }
    text
}

fn failures(results: &Results) -> String {
    let mut text = String::new();
    for fault in faults::ALL {
        for point in results.points() {
            let Some(cell) = results.cell(fault.name, &point.name) else { continue };
            if cell["outcome"] == "failed" {
                let why = shortly(cell["text"].as_str().unwrap_or_default());
                text.push_str(&format!("* `{}` at `{}`: {}\n", fault.name, point.name, why));
            }
        }
    }
    if text.is_empty() { text } else { format!("### What failed\n\n{text}") }
}

/// The first line, and of what was left what tells most: the service itself, else the first.
fn shortly(text: &str) -> String {
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or_default().to_owned();
    let rest: Vec<&str> = lines.collect();
    let of_target = rest.iter().find(|line| line.contains("(shop)"));
    of_target.or(rest.first()).map_or(first.clone(), |line| format!("{first} {line}"))
}

fn cycles(results: &Results) -> String {
    let Some(cycles) = results.cycles() else {
        return "### Cycles\n\nNot run.\n".to_owned();
    };
    let number = |name: &str| cycles[name].as_f64().unwrap_or(f64::NAN);
    format!(
        "### Cycles\n\n{} times in a row the same service, under load, was attached to, got a breakpoint \
         on a function that it calls all the time, and was let go of: {} deaths or restarts, {} times \
         its text was not clean, {} times it was left held. From `stop` to closed and read back: \
         {} ms at the median, {} ms at the 99th of a hundred, {} ms at worst.\n",
        number("done"),
        number("deaths"),
        number("unclean"),
        number("held"),
        number("median_ms"),
        number("p99_ms"),
        number("worst_ms"),
    )
}

fn points(results: &Results) -> String {
    let mut text = "### The points\n".to_owned();
    for group in Group::ALL {
        let name = |point: &Point| match point.name.as_str() {
            IDLE => IDLE.to_owned(),
            name => format!("`{name}`"),
        };
        let names: Vec<String> = of_group(results, group).map(name).collect();
        text.push_str(&format!("\n{}: {}.\n", group.name(), names.join(", ")));
    }
    text
}
