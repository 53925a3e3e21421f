//! What was found, a line of JSON for each cell, kept between runs.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

use anyhow::{Context, Result};
use godebug_tests::fault_points;
use serde_json::{Value, json};

use crate::{cell::Outcome, cycles::Cycles, points::Point};

/// All results of one build of the product.
pub(crate) struct Results {
    build: String,
    file: File,
    points: Vec<Point>,
    cells: HashMap<(String, String), Value>,
    cycles: Option<Value>,
}

fn path() -> PathBuf {
    fault_points::output().join("results.jsonl")
}

impl Results {
    pub(crate) fn open(build: &str) -> Result<Self> {
        fs::create_dir_all(fault_points::output()).context("making the folder for results")?;
        let text = fs::read_to_string(path()).unwrap_or_default();
        let file = File::options().create(true).append(true).open(path());
        let mut results = Self {
            build: build.to_owned(),
            file: file.context("opening the results")?,
            points: Vec::new(),
            cells: HashMap::new(),
            cycles: None,
        };
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        for line in lines.filter(|line| line["build"] == build) {
            results.take_in(line);
        }
        Ok(results)
    }

    fn take_in(&mut self, line: Value) {
        if let Some(points) = line["points"].as_array() {
            self.points = points.iter().filter_map(Point::from_json).collect();
        } else if line["cycles"].is_object() {
            self.cycles = Some(line["cycles"].clone());
        } else if let (Some(fault), Some(point)) = (line["fault"].as_str(), line["point"].as_str())
        {
            self.cells.insert((fault.to_owned(), point.to_owned()), line);
        }
    }

    fn add(&mut self, mut line: Value) -> Result<()> {
        line["build"] = self.build.clone().into();
        // In one piece: another of these programs may write at the same time.
        self.file.write_all(format!("{line}\n").as_bytes()).context("writing a result")?;
        self.take_in(line);
        Ok(())
    }

    pub(crate) fn build(&self) -> &str {
        &self.build
    }

    pub(crate) fn points(&self) -> &[Point] {
        &self.points
    }

    pub(crate) fn add_points(&mut self, points: &[Point]) -> Result<()> {
        let points: Vec<Value> = points.iter().map(Point::to_json).collect();
        self.add(json!({ "points": points }))
    }

    pub(crate) fn add_cell(&mut self, fault: &str, point: &Point, outcome: &Outcome) -> Result<()> {
        let mut line = json!({
            "fault": fault, "point": point.name, "group": point.group.name(), "outcome": name(outcome),
        });
        match outcome {
            Outcome::Passed { milliseconds, since } => {
                line["milliseconds"] = milliseconds.round().into();
                line["since"] = (*since).into();
            }
            Outcome::FolderStayed | Outcome::Died => {}
            Outcome::NotApplicable(text) | Outcome::Late(text) | Outcome::Failed(text) => {
                line["text"] = text.as_str().into()
            }
        }
        self.add(line)
    }

    pub(crate) fn add_cycles(&mut self, cycles: &Cycles) -> Result<()> {
        self.add(json!({ "cycles": cycles.to_json() }))
    }

    pub(crate) fn cell(&self, fault: &str, point: &str) -> Option<&Value> {
        self.cells.get(&(fault.to_owned(), point.to_owned()))
    }

    pub(crate) fn cycles(&self) -> Option<&Value> {
        self.cycles.as_ref()
    }
}

pub(crate) fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Passed { .. } => "passed",
        Outcome::FolderStayed => "folder stayed",
        Outcome::Died => "died",
        Outcome::NotApplicable(_) => "not applicable",
        Outcome::Late(_) => "late",
        Outcome::Failed(_) => "failed",
    }
}
