//! Images that are to be kept are given to godebugd, which holds them when this process has ended. They are sealed
//! before: whatever this process or its user does then, nobody is shown another image than was taken.

use crate::target::Image;
use godebug_api::handover;
use godebug_api::image::{Hit, ImageNote};
use rustix::fs::SealFlags;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

pub(crate) struct Keeper {
    socket: OwnedFd,
    /// Of the last one that was kept.
    number: u32,
}

impl Keeper {
    /// One that gives them to standard input, which is a socket then.
    ///
    /// # Errors
    /// When there are no more file descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { socket: io::stdin().as_fd().try_clone_to_owned()?, number: 0 })
    }

    /// Gives an image away, and tells the number by which it is kept. `None` when nobody takes it, which is no reason
    /// to end what is seen of it.
    pub(crate) fn keep(&mut self, image: &Image, hit: &Hit) -> Option<u32> {
        let number = self.number + 1;
        match self.give(number, image, hit) {
            Ok(()) => {
                self.number = number;
                Some(number)
            }
            Err(error) => {
                eprintln!("an image is not kept: {error}");
                None
            }
        }
    }

    fn give(&self, number: u32, image: &Image, hit: &Hit) -> io::Result<()> {
        let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&image.core, all)?;
        let note = ImageNote { number, time: hit.time.clone(), place: place(hit) };
        handover::send_image(self.socket.as_fd(), &note, image.core.as_fd())
    }
}

/// Short enough for any socket, and for a line.
fn place(hit: &Hit) -> String {
    const LONGEST: usize = 200;
    let file = hit.location.file.rsplit('/').next().unwrap_or_default();
    let text = format!("{} ({file}:{})", hit.location.function, hit.location.line);
    text.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect()
}
