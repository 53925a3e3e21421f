//! What godebugd hands to a gateway at its start, on standard input: a Unix socket that holds one
//! message, which carries three open files. So the gateway, which may open nothing, gets just these:
//! its configuration (a sealed memfd with its key), the target's `/proc/PID/status`, and its
//! transcript.

use crate::image::ImageNote;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Says which message it is, so that another program's socket is not taken for it.
const GREETING: &[u8] = b"godebug-gateway 1";
const GREETING_OF_DUMP: &[u8] = b"godebug-dump 1";
const GREETING_OF_IMAGES: &[u8] = b"godebug-images 1";
/// Longer ones are cut, and are none of these then.
const LONGEST_GREETING: usize = 32;
/// The same for what goes with an image.
const LONGEST_NOTE: usize = 4096;

/// The files that are handed over.
#[derive(Debug)]
pub struct Handover {
    /// A sealed memfd with the [`crate::control::GatewayConfig`].
    pub configuration: OwnedFd,
    /// `/proc/PID/status` of the target, to be read again and again.
    pub target_status: OwnedFd,
    /// Open for appending.
    pub transcript: OwnedFd,
}

impl Handover {
    /// The receiving end of a socket that holds the files already.
    ///
    /// # Errors
    /// When the kernel has no room for it.
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        let files =
            [self.configuration.as_fd(), self.target_status.as_fd(), self.transcript.as_fd()];
        send(GREETING, &files)
    }

    /// The files that such a socket holds. Does not wait: they are in it before the gateway starts.
    ///
    /// # Errors
    /// When it is no such socket, or does not hold exactly these.
    pub fn from_socket(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let [configuration, target_status, transcript] = receive(GREETING, socket)?;
        Ok(Self { configuration, target_status, transcript })
    }
}

/// The same for dlv's unit of a session on a core dump: a socket that holds the dump, and the program that
/// crashed.
///
/// # Errors
/// When the kernel has no room for it.
pub fn hand_over_dump(dump: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    send(GREETING_OF_DUMP, &[dump, program])
}

/// Dump and program.
///
/// # Errors
/// When it is no such socket.
pub fn receive_dump(socket: BorrowedFd<'_>) -> io::Result<[OwnedFd; 2]> {
    receive(GREETING_OF_DUMP, socket)
}

/// A socket between godebugd and a unit that takes images. The unit gets through it what it is given, and gives
/// back through it those that are to be kept.
#[derive(Debug)]
pub struct ImageSocket {
    /// The unit's end.
    pub theirs: OwnedFd,
    ours: OwnedFd,
}

impl ImageSocket {
    /// # Errors
    /// When there are no more file descriptors.
    pub fn new() -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        Ok(Self { theirs, ours })
    }

    /// Another hold on our end, to which the unit gives images.
    ///
    /// # Errors
    /// When there are no more file descriptors.
    pub fn ours(&self) -> io::Result<OwnedFd> {
        self.ours.try_clone()
    }

    /// Puts in what the unit is given: its configuration, and the transcript, open for appending.
    ///
    /// # Errors
    /// When the kernel has no room for it.
    pub fn hand_over(
        &self,
        configuration: BorrowedFd<'_>,
        transcript: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let files = [configuration, transcript];
        send_through(self.ours.as_fd(), GREETING_OF_IMAGES, &files, SendFlags::empty())
    }
}

/// Configuration and transcript.
///
/// # Errors
/// When it is no such socket.
pub fn receive_for_images(socket: BorrowedFd<'_>) -> io::Result<[OwnedFd; 2]> {
    receive(GREETING_OF_IMAGES, socket)
}

/// Gives an image away. Does not wait for whoever should take it.
///
/// # Errors
/// When nobody takes it, or not quickly enough.
pub fn send_image(
    socket: BorrowedFd<'_>,
    note: &ImageNote,
    image: BorrowedFd<'_>,
) -> io::Result<()> {
    send_through(socket, &serde_json::to_vec(note)?, &[image], SendFlags::DONTWAIT)
}

/// The next image; `None` when no more will come.
///
/// # Errors
/// When what comes is no image.
pub fn receive_image(socket: BorrowedFd<'_>) -> io::Result<Option<(ImageNote, OwnedFd)>> {
    let mut text = [0; LONGEST_NOTE];
    let (length, files) = receive_any(socket, &mut text, RecvFlags::empty())?;
    if length == 0 && files.is_empty() {
        return Ok(None);
    }
    let note = serde_json::from_slice(text.get(..length).unwrap_or_default())?;
    let [image]: [OwnedFd; 1] = files.try_into().map_err(|_| wrong())?;
    Ok(Some((note, image)))
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn send(greeting: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    let (sender, receiver) = pair()?;
    send_through(sender.as_fd(), greeting, files, SendFlags::empty())?;
    Ok(receiver)
}

fn send_through(
    sender: BorrowedFd<'_>,
    text: &[u8],
    files: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(files));
    sendmsg(sender, &[IoSlice::new(text)], &mut control, flags | SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive<const N: usize>(greeting: &[u8], socket: BorrowedFd<'_>) -> io::Result<[OwnedFd; N]> {
    let mut text = [0; LONGEST_GREETING];
    let (length, files) = receive_any(socket, &mut text, RecvFlags::DONTWAIT)?;
    if text.get(..length) != Some(greeting) {
        return Err(wrong());
    }
    files.try_into().map_err(|_| wrong())
}

fn wrong() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it does not hold what it should")
}

/// A message with its files, whole or not at all.
fn receive_any(
    socket: BorrowedFd<'_>,
    text: &mut [u8],
    flags: RecvFlags,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | flags;
    let received = recvmsg(socket, &mut [IoSliceMut::new(text)], &mut control, flags)?;
    let files: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) {
        return Err(wrong());
    }
    Ok((received.bytes, files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    fn file(text: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.into()
    }

    fn text(file: OwnedFd) -> String {
        let mut file = File::from(file);
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn each_file_arrives_as_what_it_is() {
        let handed = Handover {
            configuration: file("configuration"),
            target_status: file("status"),
            transcript: file("transcript"),
        };
        let socket = handed.into_socket().unwrap();
        let got = Handover::from_socket(socket.as_fd()).unwrap();
        assert_eq!(text(got.configuration), "configuration");
        assert_eq!(text(got.target_status), "status");
        assert_eq!(text(got.transcript), "transcript");
        assert!(Handover::from_socket(socket.as_fd()).is_err(), "there is only one message");
    }

    #[test]
    fn images_come_with_what_is_said_of_them_until_nobody_sends_more() {
        let socket = ImageSocket::new().unwrap();
        socket.hand_over(file("configuration").as_fd(), file("transcript").as_fd()).unwrap();
        let ours = socket.ours().unwrap();
        let theirs = socket.theirs;
        let [configuration, transcript] = receive_for_images(theirs.as_fd()).unwrap();
        assert_eq!(
            (text(configuration), text(transcript)),
            ("configuration".to_owned(), "transcript".to_owned())
        );
        let note = |number| ImageNote { number, time: "t".to_owned(), place: "p".to_owned() };
        send_image(theirs.as_fd(), &note(1), file("first").as_fd()).unwrap();
        send_image(theirs.as_fd(), &note(2), file("second").as_fd()).unwrap();
        let received = |socket: &OwnedFd| receive_image(socket.as_fd()).unwrap();
        let (first, image) = received(&ours).unwrap();
        assert_eq!((first, text(image)), (note(1), "first".to_owned()));
        // One without a file, or of something else, is none.
        assert_eq!(received(&ours).unwrap().0, note(2));
        send_through(theirs.as_fd(), b"{}", &[], SendFlags::empty()).unwrap();
        assert!(receive_image(ours.as_fd()).is_err());
        let long = ImageNote { place: "x".repeat(LONGEST_NOTE), ..note(3) };
        send_image(theirs.as_fd(), &long, file("").as_fd()).unwrap();
        assert!(receive_image(ours.as_fd()).is_err());
        drop(theirs);
        assert!(received(&ours).is_none());
    }

    #[test]
    fn what_is_no_such_socket_is_an_error() {
        assert!(Handover::from_socket(file("").as_fd()).is_err());
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        (&a).write_all(GREETING).unwrap();
        assert!(Handover::from_socket(b.as_fd()).is_err());
    }
}
