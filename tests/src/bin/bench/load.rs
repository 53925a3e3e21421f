//! What a person's debugging does to those who use the service: requests come at a steady pace, before, during
//! and after something is done to it. Each is timed from the moment at which it was due, so that what piles up
//! counts. What is done here is a session in which somebody sets a breakpoint and goes to lunch, so that the
//! pause budget runs out.

use std::{
    fmt::Write as _,
    io::{Read, Write as _},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, dap::DapClient, ticket::Ticket, tls};

use crate::figures::table;

/// Between two requests.
const PACE: Duration = Duration::from_millis(20);
const BUDGET: Duration = Duration::from_secs(3);
pub(crate) const CALM: Duration = Duration::from_secs(4);

/// The parts of a run: their names, and when each began, in seconds.
pub(crate) type Phases = Vec<(&'static str, f64)>;

pub(crate) struct Load {
    /// When each was due, in seconds, and how long it took, in milliseconds.
    samples: Vec<(f64, f64)>,
    phases: Phases,
}

/// The session.
pub(crate) fn measure(host: &Host) -> Result<Load> {
    during(host, 0, session)
}

/// While `doing` is done, which tells of its phases. Beside those that are timed a crowd of so many asks as fast as
/// it is answered.
pub(crate) fn during(
    host: &Host,
    crowd: usize,
    doing: impl FnOnce(&Host, Instant) -> Result<Phases>,
) -> Result<Load> {
    let begun = Instant::now();
    let samples = Mutex::new(Vec::new());
    let is_over = AtomicBool::new(false);
    let phases = std::thread::scope(|scope| {
        for _ in 0..crowd {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    let _ = request(host);
                }
            });
        }
        scope.spawn(|| {
            let mut due = begun;
            while !is_over.load(Relaxed) {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let (samples, was_due) = (&samples, due);
                scope.spawn(move || {
                    if request(host).is_ok() {
                        let at = was_due.saturating_duration_since(begun).as_secs_f64();
                        let took = was_due.elapsed().as_secs_f64() * 1000.0;
                        samples.lock().unwrap_or_else(PoisonError::into_inner).push((at, took));
                    }
                });
                due += PACE;
            }
        });
        let phases = doing(host, begun);
        is_over.store(true, Relaxed);
        phases
    })?;
    let mut samples = samples.into_inner().unwrap_or_else(PoisonError::into_inner);
    samples.sort_by(|one, other| one.0.total_cmp(&other.0));
    Ok(Load { samples, phases })
}

/// One order.
fn request(host: &Host) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    let mut stream = host.connect_on_host(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).context("a time limit")?;
    stream.write_all(b"GET /order?id=3 HTTP/1.0\r\n\r\n").context("asking")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading")?;
    ensure!(answer.contains("\"cents\":1297"), "another answer: {answer}");
    Ok(())
}

fn session(host: &Host, begun: Instant) -> Result<Phases> {
    let mut phases = Vec::new();
    let mut enter = |name: &'static str| phases.push((name, begun.elapsed().as_secs_f64()));
    enter("before");
    std::thread::sleep(CALM);
    enter("dlv attaches");
    host.ok(&format!(
        "rm -f /root/ticket; godebugctl attach myapp --ttl 60s --pause-budget {}s --from {} \
         --endpoint {} --detach --ticket /root/ticket",
        BUDGET.as_secs(),
        host.laptop_address(),
        host.address()
    ))?;
    enter("session, nothing set");
    std::thread::sleep(CALM);
    let ticket = Ticket::read(host.path("/root/ticket"))?;
    let port = ticket.gateway.context("the ticket has no address")?.port();
    let mut ide = DapClient::new(tls::connect(host.connect_from_laptop(port)?, &ticket.identity)?);
    enter("a breakpoint, and lunch");
    ide.attach()?;
    ide.set_function_breakpoints(&["main.priceOf"])?;
    ide.configuration_done()?;
    ide.wait_for_stop()?;
    ide.wait_for_event("continued")?;
    enter("let go, breakpoints off");
    std::thread::sleep(CALM);
    drop(ide);
    enter("the session ends");
    host.ok(&format!("godebugctl stop {}", ticket.id))?;
    enter("after");
    std::thread::sleep(CALM);
    Ok(phases)
}

impl Load {
    fn of(&self, phase: usize) -> Vec<f64> {
        let from = self.phases[phase].1;
        let to = self.phases.get(phase + 1).map_or(f64::INFINITY, |(_, at)| *at);
        let within = self.samples.iter().filter(|(at, _)| (from..to).contains(at));
        let mut times: Vec<f64> = within.map(|(_, took)| *took).collect();
        times.sort_by(f64::total_cmp);
        times
    }

    pub(crate) fn table(&self) -> String {
        let cells = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let mut rows: Vec<Vec<String>> =
            vec![cells(&["", "for", "requests", "median", "p99", "worst"])];
        for (number, (name, from)) in self.phases.iter().enumerate() {
            let times = self.of(number);
            let end = self.phases.get(number + 1).map(|(_, at)| *at);
            let end = end.or(self.samples.last().map(|(at, _)| *at)).unwrap_or(*from);
            let at = |share: f64| {
                let index = (times.len().saturating_sub(1) as f64 * share).round() as usize;
                times.get(index).map_or("–".to_owned(), |time| format!("{time:.1} ms"))
            };
            rows.push(vec![
                (*name).to_owned(),
                format!("{:.1} s", end - from),
                times.len().to_string(),
                at(0.5),
                at(0.99),
                at(1.0),
            ]);
        }
        table(&rows)
    }

    pub(crate) fn text(&self) -> String {
        format!(
            "### Those who use the service meanwhile\n\n\
             {} requests a second, each timed from when it was due; a pause budget of {} s.\n\n{}\n\
             ![latency before, during and after a session](latency.svg)\n",
            1000 / PACE.as_millis(),
            BUDGET.as_secs(),
            self.table()
        )
    }

    /// Each request a point: when it was due, and how long it took, on a logarithmic scale.
    pub(crate) fn svg(&self) -> String {
        const WIDTH: f64 = 900.0;
        const HEIGHT: f64 = 360.0;
        const LEFT: f64 = 70.0;
        const BOTTOM: f64 = 300.0;
        const TOP: f64 = 40.0;
        let last = self.samples.last().map_or(1.0, |(at, _)| *at);
        let x = |at: f64| LEFT + at / last * (WIDTH - LEFT - 20.0);
        // From 0.1 ms to 10 s.
        let y = |ms: f64| BOTTOM - (ms.max(0.1).log10() + 1.0) / 5.0 * (BOTTOM - TOP);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"11\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        for (number, (name, from)) in self.phases.iter().enumerate() {
            let to = self.phases.get(number + 1).map_or(last, |(_, at)| *at);
            let (left, right) = (x(*from), x(to));
            let fill = if number % 2 == 0 { "#f4f4f4" } else { "#e2ebf5" };
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" transform=\"rotate(-20 {:.1} {:.1})\">{name}</text>",
                right - left,
                BOTTOM - TOP,
                left + 2.0,
                HEIGHT - 8.0,
                left + 2.0,
                HEIGHT - 8.0,
            );
        }
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
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#bbb\"/>\n\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - 20.0,
                y(ms),
                y(ms),
                LEFT - 6.0,
                y(ms) + 4.0,
            );
        }
        for (at, took) in &self.samples {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.6\" fill=\"#1f5a99\"/>",
                x(*at),
                y(*took)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"22\" font-size=\"13\">How long each request took, by when it was due</text>\n</svg>"
        );
        svg
    }
}
