//! All goroutines as one picture: a flame graph, each goroutine as wide as every other, functions upon those that
//! called them. One SVG file with nothing in it but shapes and text.

use crate::terminal::safe;
use godebug_api::Refusal;
use godebug_api::image::Goroutines;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

const WIDTH: f64 = 1200.0;
const ROW: usize = 18;
const HEADING: usize = 30;
/// About as wide as a letter is.
const LETTER: f64 = 6.6;
/// What is narrower cannot be seen.
const NARROWEST: f64 = 0.4;

/// A function, and those that it called.
#[derive(Default)]
struct Node {
    count: usize,
    above: BTreeMap<String, Node>,
}

/// Writes the picture to a new file.
///
/// # Errors
/// When there is such a file already, or it cannot be written.
pub(crate) fn write(all: &Goroutines, full: bool, path: &Path) -> Result<(), Refusal> {
    let refused = |error: std::io::Error| {
        Refusal::usage(format!("{} cannot be written: {error}", path.display()), "name a new file")
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(refused)?;
    file.write_all(picture(all, full).as_bytes()).map_err(refused)
}

fn picture(all: &Goroutines, full: bool) -> String {
    let mut root = Node::default();
    for group in all.groups.iter().filter(|group| full || !group.system) {
        root.count += group.count;
        let mut node = &mut root;
        // What they wait for stands on top of what they do.
        let functions = group.stack.iter().rev().map(|frame| safe(&frame.place.function));
        for name in functions.chain([format!("[{}]", safe(&group.doing))]) {
            node = node.above.entry(name).or_default();
            node.count += group.count;
        }
    }
    let height = HEADING + (depth(&root) + 1) * ROW;
    let title = format!("{} goroutines of {}, {}", root.count, all.unit, safe(&all.time));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fffdf8\"/>\n\
         <text x=\"8\" y=\"19\" font-size=\"13\">{}</text>\n",
        escaped(&title)
    );
    let scale = WIDTH / as_width(root.count.max(1));
    rows(&mut svg, &root, (0.0, height - ROW), scale, root.count);
    svg.push_str("</svg>\n");
    svg
}

fn depth(node: &Node) -> usize {
    node.above.values().map(|above| 1 + depth(above)).max().unwrap_or(0)
}

/// Those that a node has called, from left to right, and what stands upon them.
fn rows(svg: &mut String, node: &Node, (left, bottom): (f64, usize), scale: f64, all: usize) {
    let mut left = left;
    for (name, above) in &node.above {
        let width = as_width(above.count) * scale;
        if width >= NARROWEST {
            let share = as_width(above.count) * 100.0 / as_width(all.max(1));
            let shown: String = fitting(name, width);
            // Writing to a string cannot fail.
            let _ = writeln!(
                svg,
                "<g><title>{}: {} ({share:.1} %)</title><rect x=\"{left:.1}\" y=\"{bottom}\" \
                 width=\"{width:.1}\" height=\"{}\" fill=\"{}\" stroke=\"#fffdf8\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{}</text></g>",
                escaped(name),
                above.count,
                ROW - 1,
                colour(name),
                left + 3.0,
                bottom + 13,
                escaped(&shown)
            );
            rows(svg, above, (left, bottom.saturating_sub(ROW)), scale, all);
        }
        left += width;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a width in a picture")]
fn as_width(count: usize) -> f64 {
    count as f64
}

/// As much of a name as has room; the end of it says more than its beginning.
fn fitting(name: &str, width: f64) -> String {
    let letters = name.chars().count();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few letters")]
    let room = ((width - 6.0) / LETTER).max(0.0) as usize;
    if letters <= room {
        return name.to_owned();
    }
    match room {
        0..3 => String::new(),
        room => format!("…{}", name.chars().skip(letters - room + 1).collect::<String>()),
    }
}

/// The same name has the same colour in every picture: waiting is blue, Go's own code is grey, the rest warm.
fn colour(name: &str) -> String {
    let sum = name.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let (hue, saturation) = match name {
        _ if name.starts_with('[') => (205, 55),
        _ if name.starts_with("runtime.") || name.starts_with("internal/") => (40, 8),
        _ => (15 + sum % 45, 75),
    };
    format!("hsl({hue},{saturation}%,{}%)", 68 + sum / 64 % 12)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use godebug_api::image::{Frame, Group, Place};

    fn group(count: usize, functions: &[&str], doing: &str) -> Group {
        let frame = |function: &&str| Frame {
            place: Place { function: (*function).to_owned(), file: "a.go".to_owned(), line: 1 },
        };
        Group {
            count,
            doing: doing.to_owned(),
            waiting_s: None,
            ids: vec![1],
            stack: functions.iter().map(frame).collect(),
            started_at: None,
            system: false,
        }
    }

    #[test]
    fn what_has_the_same_beginning_is_one_and_nothing_escapes_from_its_name() {
        let all = Goroutines {
            waits: Vec::new(),
            deadlocks: Vec::new(),
            time: "t".to_owned(),
            unit: "shop".parse().unwrap(),
            pause_ms: 1.0,
            goroutines: 4,
            left_out: 0,
            groups: vec![
                group(3, &["main.wait", "main.main"], "select"),
                group(1, &["main.<script>\"", "main.main"], "running"),
            ],
        };
        let svg = picture(&all, false);
        assert_eq!(svg.matches("<title>main.main: 4 (100.0 %)").count(), 1, "{svg}");
        assert!(svg.contains("<title>[select]: 3 (75.0 %)"), "{svg}");
        assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;&quot;"), "{svg}");
    }

    #[test]
    fn a_name_is_cut_at_its_beginning() {
        assert_eq!(fitting("main.serve", 200.0), "main.serve");
        assert_eq!(fitting("main.serve", 46.0), "…serve");
        assert_eq!(fitting("main.serve", 10.0), "");
    }
}
