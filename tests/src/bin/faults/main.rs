//! `faults`: breaks one thing at one point of a session's life, for every thing and every point, and
//! sees that nothing is left. `--write` puts what was found into docs/guarantees.md.

mod cell;
mod cycles;
mod faults;
mod inject;
mod points;
mod results;
mod run;
mod scene;
mod setup;
mod table;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str =
    "usage: faults [--faults NAME,NAME…] [--points GLOB,GLOB…] [--hosts N] [--quick | --distinct]
              [--again] [--repeat N] [--write] [--list] | --cycles N [--write]
Cells whose results are there for this build are not run again, unless with --again.";

/// What the command line asks for.
pub(crate) struct Wanted {
    /// Names of faults; empty: all.
    pub(crate) faults: Vec<String>,
    /// Patterns of points, with `*`; empty: all.
    pub(crate) points: Vec<String>,
    pub(crate) hosts: usize,
    /// How often each cell is run, for one that fails now and then.
    pub(crate) repeat: usize,
    pub(crate) quick: bool,
    /// One point of each moment.
    pub(crate) distinct: bool,
    pub(crate) again: bool,
    pub(crate) write: bool,
    pub(crate) list: bool,
    pub(crate) cycles: usize,
}

fn main() -> ExitCode {
    match wanted().and_then(|wanted| run::all(&wanted)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faults: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn wanted() -> Result<Wanted> {
    let mut wanted = Wanted {
        faults: Vec::new(),
        points: Vec::new(),
        hosts: 2,
        repeat: 1,
        quick: false,
        distinct: false,
        again: false,
        write: false,
        list: false,
        cycles: 0,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().context(USAGE);
        match word.as_str() {
            "--faults" => wanted.faults = names(&value()?),
            "--points" => wanted.points = names(&value()?),
            "--hosts" => wanted.hosts = value()?.parse().context(USAGE)?,
            "--repeat" => wanted.repeat = value()?.parse().context(USAGE)?,
            "--cycles" => wanted.cycles = value()?.parse().context(USAGE)?,
            "--quick" => wanted.quick = true,
            "--distinct" => wanted.distinct = true,
            "--again" => wanted.again = true,
            "--write" => wanted.write = true,
            "--list" => wanted.list = true,
            _ => bail!("{USAGE}"),
        }
    }
    Ok(wanted)
}

fn names(list: &str) -> Vec<String> {
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
