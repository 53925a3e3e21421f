//! Mode `observe`: debuggers reach this process where dlv would be, and are shown one image of the target
//! after the other, each by a dlv of its own that reads it. Breakpoints are lines at which an image is taken.
//!
//! One thread, the first, traces, since the kernel ties a tracee to a thread; the guard watches over that
//! one. Each connection has a thread of its own, which tells it by the `desk` what it wants.

mod dap;
mod desk;
mod finder;
mod lines;
mod past;
mod rpc;
mod view;
mod wire;

use crate::delve::{Start, give_up_privilege};
use crate::target::Target;
use crate::trace::Wakeups;
use crate::{await_guard, folder};
use desk::{Desk, Due};
use godebug_api::image::ImageConfig;
use godebug_api::{Code, Refusal};
use rustix::net::RecvFlags;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Images come no faster, and take no more than this part of the target's time.
const BETWEEN: Duration = Duration::from_millis(100);
const SHARE: u32 = 20;
/// How long a line is armed before the target is looked at anew: its memory may have grown.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// After an image at one line others come first for so long: one that is reached all the time, with a
/// condition that is never true, would take all images for itself.
const OTHERS_FIRST: Duration = Duration::from_secs(1);
/// Connections at a time; the gateway has no more.
const MOST_CONNECTIONS: usize = 16;

/// What every connection needs.
pub(super) struct Office {
    pub(super) desk: Desk,
    pub(super) target: Target,
    pub(super) debugger: String,
    pub(super) symbols: Option<PathBuf>,
    /// For the folders of the connections.
    pub(super) folder: PathBuf,
}

impl Office {
    /// How a connection starts its dlv, in a folder of its own.
    pub(super) fn start<'a>(&'a self, folder: &'a Path) -> Start<'a> {
        let symbols = self.symbols.as_deref();
        Start { program: &self.debugger, symbols, folder, by_this_thread: true }
    }
}

/// Serves until it is told to end, or the target is gone.
///
/// # Errors
/// Why it cannot, or cannot any more.
pub(crate) fn serve(config: &ImageConfig, socket: &Path) -> Result<(), Refusal> {
    let failed = |error: io::Error| {
        Refusal::host(format!("the socket for debuggers cannot be made: {error}"), "is /run full?")
    };
    let desk = Desk::new().map_err(failed)?;
    // Before there is another thread: they all have its signals blocked then.
    let mut wakeups = Wakeups::with_bell(desk.bell().try_clone().map_err(failed)?)?;
    if config.guarded {
        await_guard(&mut wakeups)?;
    }
    let (target, folder) = (Target::open(config)?, folder()?);
    let (debugger, symbols) = (config.debugger.clone(), config.symbols.clone());
    let office = Arc::new(Office { desk, target, debugger, symbols, folder });
    let listener = listen(socket).map_err(failed)?;
    let servants = Arc::clone(&office);
    std::thread::spawn(move || accept(&listener, &servants));
    let ended = take_images(&office, &mut wakeups);
    office.desk.close();
    let _ = std::fs::remove_file(socket);
    let _ = std::fs::remove_dir_all(&office.folder);
    ended
}

/// The name is there when somebody listens, and not before.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    let early = socket.with_extension("new");
    let _ = std::fs::remove_file(&early);
    let listener = UnixListener::bind(&early)?;
    // The gateway is another user of the same group.
    std::fs::set_permissions(&early, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&early, socket)?;
    Ok(listener)
}

fn accept(listener: &UnixListener, office: &Arc<Office>) {
    let places = Arc::new(());
    for client in listener.incoming() {
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                eprintln!("a connection cannot be taken: {error}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if Arc::strong_count(&places) > MOST_CONNECTIONS {
            continue;
        }
        let (office, place) = (Arc::clone(office), Arc::clone(&places));
        std::thread::spawn(move || {
            give_up_privilege();
            if let Err(error) = converse(&office, client) {
                eprintln!("a connection has ended: {error}");
            }
            drop(place);
        });
    }
}

/// Which protocol it is, the first byte tells, as it does for dlv.
fn converse(office: &Arc<Office>, client: UnixStream) -> io::Result<()> {
    let mut first = [0];
    // Looked at, and left there.
    if rustix::net::recv(&client, &mut first, RecvFlags::PEEK)?.0 == 0 {
        return Ok(());
    }
    let number = office.desk.number();
    let folder = office.folder.join(number.to_string());
    std::fs::create_dir(&folder)?;
    let ended = match first[0] {
        b'{' => rpc::serve(office, number, &folder, client),
        _ => dap::serve(office, number, &folder, client),
    };
    office.desk.withdraw(number);
    let _ = std::fs::remove_dir_all(&folder);
    ended
}

/// Does what the desk says.
fn take_images(office: &Office, wakeups: &mut Wakeups) -> Result<(), Refusal> {
    let Office { desk, target, .. } = office;
    let mut next = Instant::now();
    let mut last = None;
    loop {
        wakeups.go_on()?;
        wakeups.was_called();
        let due = desk.due();
        let left = next.saturating_duration_since(Instant::now());
        if due == Due::Nothing || !left.is_zero() {
            let soon = if due == Due::Nothing { Duration::from_secs(1) } else { left };
            wakeups.sleep(Instant::now() + soon);
            continue;
        }
        let others = last.take().and_then(|last| desk.others_than(last));
        match take(&due, others, target, wakeups) {
            Ok(None) => {}
            Ok(Some((image, address))) => {
                last = address;
                let pause = image.pause;
                next = Instant::now() + BETWEEN.max(pause * SHARE);
                desk.deliver(image, address);
            }
            Err(refusal) if refusal.code == Code::Ended => return Err(refusal),
            Err(refusal) => {
                eprintln!("{refusal}");
                desk.refuse(&due, &refusal);
                next = Instant::now() + BETWEEN;
            }
        }
    }
}

fn take(
    due: &Due,
    others: Option<Vec<u64>>,
    target: &Target,
    wakeups: &mut Wakeups,
) -> Result<Option<(crate::target::Image, Option<u64>)>, Refusal> {
    match due {
        Due::Nothing => Ok(None),
        Due::Now => {
            target.is_ready()?;
            target.image(wakeups).map(|image| Some((image, None)))
        }
        Due::At(all) => {
            let (addresses, patience) = match &others {
                Some(others) => (others, OTHERS_FIRST),
                None => (all, LOOK_AGAIN),
            };
            target.image_at(wakeups, addresses, Instant::now() + patience)
        }
    }
}
