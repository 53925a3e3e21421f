//! `make bench`: what godebug costs beside bare dlv, on one host in one run, and how soon after its
//! time a session is over. `--write` puts the figures into docs/measurements.md.

mod crowd;
mod ending;
mod figures;
mod gateway;
mod images;
mod journal;
mod load;
mod opening;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use ending::Endings;
use figures::{Series, milliseconds, table};
use godebug_tests::{Host, Snapshot, Suite, image, nothing_left, process::Process};
use opening::{Kind, Openings};

const USAGE: &str = "usage: bench [--write] [--only-crowd | --only-gateway | --only-images | --only-users | --many-images N] [--rounds N] [--sessions N]";
/// What may be added to bare dlv at the median, in milliseconds.
const AIM_LAPTOP: f64 = 150.0;
const AIM_HERE: f64 = 40.0;
/// dlv looks once whether the target's first thread has stopped, and if it has not just yet, sleeps
/// for 200 ms before it looks again (pkg/proc/native/proc_linux.go, wait). Chance decides.
const NAP: f64 = 180.0;
/// The figures stand between these lines of docs/measurements.md.
const FIGURES: [&str; 2] =
    ["<!-- figures: written by `bench --write` -->", "<!-- end of figures -->"];
/// What `--many-images` counts.
const MANY: [&str; 2] =
    ["<!-- many images: written by `bench --write` -->", "<!-- end of many images -->"];
/// Those of images, which can be measured alone.
const IMAGES: [&str; 2] = ["<!-- images: written by `bench --write` -->", "<!-- end of images -->"];
/// And those of a host that is busy.
const CROWD: [&str; 2] =
    ["<!-- a busy host: written by `bench --write` -->", "<!-- end of a busy host -->"];
/// And those of the gateway, which can be measured alone.
const GATEWAY: [&str; 2] =
    ["<!-- gateway: written by `bench --write` -->", "<!-- end of gateway -->"];

struct Wanted {
    write: bool,
    only_crowd: bool,
    only_gateway: bool,
    only_images: bool,
    only_users: bool,
    many_images: Option<usize>,
    rounds: usize,
    sessions: usize,
}

fn main() -> ExitCode {
    match wanted().and_then(|wanted| measure(&wanted)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wanted() -> Result<Wanted> {
    let mut wanted = Wanted {
        write: false,
        only_crowd: false,
        only_gateway: false,
        only_images: false,
        only_users: false,
        many_images: None,
        rounds: 12,
        sessions: 10,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|word| word.parse().ok()).context(USAGE);
        match word.as_str() {
            "--write" => wanted.write = true,
            "--only-crowd" => wanted.only_crowd = true,
            "--only-gateway" => wanted.only_gateway = true,
            "--only-images" => wanted.only_images = true,
            "--only-users" => wanted.only_users = true,
            "--many-images" => wanted.many_images = Some(number()?),
            "--rounds" => wanted.rounds = number()?,
            "--sessions" => wanted.sessions = number()?,
            _ => bail!("{USAGE}"),
        }
    }
    Ok(wanted)
}

fn measure(wanted: &Wanted) -> Result<()> {
    let host = Host::boot(Suite::Trixie)?;
    if wanted.only_crowd {
        return measure_crowd(&host, wanted.write);
    }
    if wanted.only_gateway {
        return measure_gateway(&host, wanted.write);
    }
    if wanted.only_users {
        println!("{}", images::busy(&host)?.text());
        return Ok(());
    }
    if wanted.only_images {
        return measure_images(&host, wanted.write);
    }
    if let Some(count) = wanted.many_images {
        return many_images(&host, count, wanted.write);
    }
    let before = Snapshot::take(&host, &["myapp"])?;
    let target = target(&before)?;
    let openings = opening::measure(&host, target.inner_pid, wanted.rounds)?;
    let endings = ending::measure(&host, wanted.sessions)?;
    let text = report(&host, &openings, &endings)?;
    println!("{text}");
    measure_crowd(&host, wanted.write)?;
    measure_gateway(&host, wanted.write)?;
    measure_images(&host, wanted.write)?;
    nothing_left(&host, &before)?;
    if wanted.write {
        write(&measurements(), FIGURES, &text)?;
    }
    Ok(())
}

/// Milliseconds since the epoch, the clock that the host's journal has too.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64() * 1000.0
}

fn report(host: &Host, openings: &Openings, endings: &Endings) -> Result<String> {
    Ok([
        circumstances(host, openings)?,
        "### From the command to a debugger that answers\n".to_owned(),
        opening_table(openings),
        aims(openings),
        "### Where the time goes, for a laptop\n".to_owned(),
        parts_table(openings),
        "### From a session's time to its end\n".to_owned(),
        ending_table(endings),
    ]
    .join("\n"))
}

fn circumstances(host: &Host, openings: &Openings) -> Result<String> {
    let systemd = host.ok("systemctl --version | head -n 1")?;
    let firewalld = host.ok("firewall-cmd --version")?;
    let dlv = host.ok("dlv version | sed -n 's/^Version: //p'")?;
    let kernel = host.ok("uname -r")?;
    let cores = std::thread::available_parallelism().context("counting cores")?;
    let day = host.ok("date -u +%F")?;
    Ok(format!(
        "{}, {}; Debian {} in a container on {cores} cores, kernel {}, {}, firewalld {}, dlv {}.\n\
         Each figure holds about {} of the measuring itself (a command that does nothing).\n",
        day.trim(),
        product()?,
        host.suite().name(),
        kernel.trim(),
        systemd.trim(),
        firewalld.trim(),
        dlv.trim(),
        milliseconds(openings.of(Kind::Nothing).median()),
    ))
}

/// What of godebug was measured.
fn product() -> Result<String> {
    if std::env::var("GODEBUG_DEV_INSTALL").is_ok_and(|value| value == "1") {
        let profile = std::env::var("PROFILE").unwrap_or_else(|_| "release".to_owned());
        return Ok(format!("a {profile} build"));
    }
    let package = image::newest_package()?.context("there is no package: run make deb")?;
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("the package {name}"))
}

pub(crate) fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

fn opening_table(openings: &Openings) -> String {
    let bare = openings.of(Kind::Bare);
    let mut rows = vec![row(&[
        "",
        "runs",
        "median",
        "p90",
        "worst",
        "more than dlv",
        "ratio",
        "fastest",
        "naps",
    ])];
    for (name, kind) in [
        ("bare `dlv attach`, to its first State answer", Kind::Bare),
        ("`godebugctl attach --from LAPTOP`, with firewalld", Kind::Laptop),
        ("`godebugctl attach`, this host only", Kind::Here),
        ("with firewalld, godebugd started by the request", Kind::LaptopCold),
        ("this host only, godebugd started by the request", Kind::HereCold),
    ] {
        let series = openings.of(kind);
        let mut cells = described(name, series);
        cells.push(milliseconds(series.median() - bare.median()));
        cells.push(format!("{:.2}", series.median() / bare.median()));
        cells.push(milliseconds(series.fastest()));
        cells.push(series.slower_by(NAP).to_string());
        rows.push(cells);
    }
    format!(
        "{}\nNaps are runs at least {NAP:.0} ms slower than the fastest of their kind: mostly those in \
         which dlv\nslept for 200 ms while it attached, as it does by chance, bare or not.\n",
        table(&rows)
    )
}

fn described(name: &str, series: &Series) -> Vec<String> {
    let times = [series.median(), series.p90(), series.worst()].map(milliseconds);
    let mut cells = vec![name.to_owned(), series.count().to_string()];
    cells.extend(times);
    cells
}

fn aims(openings: &Openings) -> String {
    let bare = openings.of(Kind::Bare);
    let line = |what: &str, kind: Kind, aim: f64| {
        let series = openings.of(kind);
        let more = series.median() - bare.median();
        let fastest = series.fastest() - bare.fastest();
        let verdict = if more <= aim { "met" } else { "**missed**" };
        format!(
            "* {what}: at most {aim:.0} ms more than dlv at the median; {more:.0} ms: {verdict} \
             (fastest to fastest: {fastest:.0} ms)\n"
        )
    };
    line("with firewalld", Kind::Laptop, AIM_LAPTOP) + &line("without", Kind::Here, AIM_HERE)
}

fn parts_table(openings: &Openings) -> String {
    let parts = &openings.parts;
    let mut rows = vec![row(&["", "runs", "median", "p90", "worst"])];
    for (name, series) in [
        ("command → allowed: godebugctl, D-Bus, polkit, target, plan, audit", &parts.to_allowed),
        ("allowed → dlv's unit starts: certificates, ledger, dead man", &parts.to_dlv_starting),
        ("dlv's unit starts → dlv has answered (gateway and fence meanwhile)", &parts.dlv),
        ("dlv has answered → active: firewalld, new end, audit", &parts.to_active),
        ("active → the command ends: ticket", &parts.to_exit),
    ] {
        rows.push(described(name, series));
    }
    table(&rows)
}

fn ending_table(endings: &Endings) -> String {
    let mut rows = vec![row(&["", "runs", "median", "p90", "worst"])];
    for (name, series) in [
        ("→ the client's connection is cut", &endings.cut),
        ("→ dlv has let the target go and ended", &endings.detached),
        ("→ everything is given back, read back and recorded", &endings.proved),
    ] {
        rows.push(described(name, series));
    }
    table(&rows)
}

fn measurements() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/measurements.md")
}

fn target(snapshot: &Snapshot) -> Result<&Process> {
    snapshot.processes().first().context("myapp has no process")
}

fn measure_crowd(host: &Host, is_written: bool) -> Result<()> {
    let before = Snapshot::take(host, &["myapp"])?;
    let text = crowd::measure(host, target(&before)?)?.text();
    println!("{text}");
    nothing_left(host, &before)?;
    if is_written {
        write(&measurements(), CROWD, &text)?;
    }
    Ok(())
}

fn measure_gateway(host: &Host, is_written: bool) -> Result<()> {
    let load = load::measure(host)?;
    let text = format!("{}\n{}", gateway::text(&gateway::measure(host)?), load.text());
    println!("{text}");
    if is_written {
        write(&measurements(), GATEWAY, &text)?;
        let path = measurements().with_file_name("latency.svg");
        std::fs::write(&path, load.svg()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn measure_images(host: &Host, is_written: bool) -> Result<()> {
    let pauses = images::pauses::measure(host)?;
    println!("{}", pauses.text());
    let load = images::busy(host)?;
    println!("{}", load.text());
    let text = format!("{}\n{}", pauses.text(), load.text());
    if is_written {
        write(&measurements(), IMAGES, &text)?;
        for (name, svg) in [("pauses.svg", pauses.svg()), ("images.svg", load.svg())] {
            let path = measurements().with_file_name(name);
            std::fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    Ok(())
}

fn many_images(host: &Host, count: usize, is_written: bool) -> Result<()> {
    let many = images::many::take(host, count)?;
    println!("{many}");
    if is_written {
        write(&measurements(), MANY, &many.to_string())?;
    }
    anyhow::ensure!(many.is_good(), "something happened to the services");
    Ok(())
}

fn write(path: &Path, [begin, end]: [&str; 2], figures: &str) -> Result<()> {
    let page =
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let (head, rest) = page.split_once(begin).with_context(|| format!("no line {begin}"))?;
    let (_, tail) = rest.split_once(end).with_context(|| format!("no line {end}"))?;
    let page = format!("{head}{begin}\n\n{}\n\n{end}{tail}", figures.trim());
    std::fs::write(path, page).with_context(|| format!("writing {}", path.display()))?;
    eprintln!("* written to {}", path.display());
    Ok(())
}
