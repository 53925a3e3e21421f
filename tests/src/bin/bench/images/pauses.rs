//! For how long a service stands for an image, by its size and its threads, beside what it stands for bare dlv.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use godebug_tests::Host;

use super::{Burden, Dlv, LIMIT, snapshots};
use crate::figures::{Series, table};

const IMAGES: usize = 10;
const ATTACHES: usize = 3;
const PORT: u16 = 8110;

/// Megabytes resident, in huge pages or not, threads that wait in the kernel, and how it is looked at.
const CASES: [(u32, bool, u32, By); 11] = [
    (10, false, 5, By::Copy),
    (100, false, 5, By::Copy),
    (1000, false, 5, By::Copy),
    (1000, true, 5, By::Copy),
    (4000, false, 5, By::Copy),
    (4000, true, 5, By::Copy),
    (10, false, 50, By::Copy),
    (10, false, 500, By::Copy),
    (10, false, 5, By::Standing),
    (100, false, 5, By::Standing),
    (1000, false, 5, By::Standing),
];

/// What an image of a service is made from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// A copy that it makes of itself.
    Copy,
    /// Its own memory, for it is the first process of a PID namespace, as in a container.
    Standing,
}

struct Case {
    name: String,
    /// As the program itself sees it: the time between two looks of its own at the clock.
    calm: f64,
    /// As told of each image.
    images: Series,
    images_seen: f64,
    dlv_seen: Series,
}

pub(crate) struct Pauses(Vec<Case>);

pub(crate) fn measure(host: &Host) -> Result<Pauses> {
    let mut cases = Vec::new();
    for (resident, huge, threads, by) in CASES {
        let case = of(host, resident, huge, threads, by);
        let case = case.with_context(|| format!("{resident} MB, {threads} threads"))?;
        eprintln!("* pauses: {}", case.name);
        cases.push(case);
    }
    Ok(Pauses(cases))
}

fn of(host: &Host, resident: u32, huge: bool, threads: u32, by: By) -> Result<Case> {
    let options =
        format!("-resident {resident} -threads {threads}{}", if huge { " -huge" } else { "" });
    let (properties, how) = match by {
        By::Copy => ("", ""),
        By::Standing => ("--property=PrivatePIDs=yes", ", read while it stands"),
    };
    let burden = Burden::start(host, "burden", PORT, properties, &options)?;
    burden.stood()?;
    std::thread::sleep(crate::load::CALM);
    let calm = burden.stood()?;
    let mut images = Series::default();
    let words = format!("--at main.turn --expr n --count {IMAGES} --timeout 5m");
    for pause in snapshots(host, &burden.unit, &words, 10 * LIMIT)? {
        images.add_milliseconds(pause);
    }
    ensure!(images.count() == IMAGES, "{} images instead of {IMAGES}", images.count());
    let images_seen = burden.stood()?;
    let mut dlv_seen = Series::default();
    for _ in 0..ATTACHES {
        burden.stood()?;
        Dlv::attach(host, &burden.unit)?.detach()?;
        dlv_seen.add_milliseconds(burden.stood()?);
    }
    let counts = burden.counts()?;
    ensure!(counts["wrong"].as_array().is_none_or(Vec::is_empty), "it saw something: {counts}");
    burden.stop()?;
    let pages = if huge { ", in huge pages" } else { "" };
    let name = format!("{resident} MB{pages}, {threads} threads{how}");
    Ok(Case { name, calm, images, images_seen, dlv_seen })
}

impl Pauses {
    pub(crate) fn text(&self) -> String {
        let one = |value: f64| format!("{value:.1} ms");
        let heads = [
            "",
            "an image: median",
            "worst",
            "seen from within",
            "dlv attaches, seen from within: median",
            "worst",
            "ratio",
            "by itself",
        ];
        let mut rows: Vec<Vec<String>> = vec![heads.map(str::to_owned).to_vec()];
        for case in &self.0 {
            rows.push(vec![
                case.name.clone(),
                one(case.images.median()),
                one(case.images.worst()),
                one(case.images_seen),
                one(case.dlv_seen.median()),
                one(case.dlv_seen.worst()),
                format!("{:.0}", case.dlv_seen.median() / case.images.median()),
                one(case.calm),
            ]);
        }
        format!(
            "### For how long a service stands for an image\n\n\
             {IMAGES} images at a function that is called some ten thousand times a second, and {ATTACHES} times bare \
             `dlv attach --continue` with an\norderly end. What is seen from within is the longest time between two of the \
             service's own looks at the clock, every 0.5 ms, of all\nimages together; by itself, when nothing is done to it, \
             that is what the last column says. A service that is the first process of a PID namespace, as in a\ncontainer, \
             is read while it stands.\n\n{}\n\
             ![for how long it stands, by size and threads](pauses.svg)\n",
            table(&rows)
        )
    }

    /// A row for each case, on a logarithmic scale.
    pub(crate) fn svg(&self) -> String {
        const WIDTH: f64 = 900.0;
        const LEFT: f64 = 270.0;
        const TOP: f64 = 60.0;
        const ROW: f64 = 26.0;
        let bottom = TOP + ROW * self.0.len() as f64;
        // From 0.1 ms to 10 s.
        let x = |ms: f64| LEFT + (ms.max(0.1).log10() + 1.0) / 5.0 * (WIDTH - LEFT - 30.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"{WIDTH}\" height=\"{:.0}\" fill=\"white\"/>\n\
             <text x=\"10\" y=\"22\" font-size=\"13\">For how long a service stands: for an image \
             (<tspan fill=\"#1f5a99\">each</tspan>), and while bare dlv attaches \
             (<tspan fill=\"#b5402a\">each</tspan>)</text>\n",
            bottom + 20.0,
            bottom + 20.0
        );
        for (ms, label) in [
            (0.1, "0.1 ms"),
            (1.0, "1 ms"),
            (10.0, "10 ms"),
            (100.0, "100 ms"),
            (1e3, "1 s"),
            (1e4, "10 s"),
        ] {
            let _ = writeln!(
                svg,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{bottom}\" stroke=\"#bbb\"/>\n\
                 <text x=\"{0:.1}\" y=\"{2}\" text-anchor=\"middle\">{label}</text>",
                x(ms),
                TOP - 6.0,
                TOP - 12.0,
            );
        }
        for (number, case) in self.0.iter().enumerate() {
            let y = TOP + ROW * (number as f64 + 0.5);
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 10.0,
                y + 4.0,
                case.name
            );
            for (series, colour) in [(&case.images, "#1f5a99"), (&case.dlv_seen, "#b5402a")] {
                for ms in series.all() {
                    let _ = writeln!(
                        svg,
                        "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\" fill-opacity=\"0.6\"/>",
                        x(*ms)
                    );
                }
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}
