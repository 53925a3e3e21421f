//! What godebugd hands to a gateway at its start, on standard input: a Unix socket that holds one
//! message, which carries three open files. So the gateway, which may open nothing, gets just these:
//! its configuration (a sealed memfd with its key), the target's `/proc/PID/status`, and its
//! transcript.

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
/// Longer ones are cut, and are none of these then.
const LONGEST_GREETING: usize = 32;

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

fn send(greeting: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    let (sender, receiver) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(files));
    sendmsg(&sender, &[IoSlice::new(greeting)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(receiver)
}

fn receive<const N: usize>(greeting: &[u8], socket: BorrowedFd<'_>) -> io::Result<[OwnedFd; N]> {
    let mut text = [0; LONGEST_GREETING];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, flags)?;
    let files: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    let whole = !received.flags.contains(ReturnFlags::CTRUNC);
    let said = text.get(..received.bytes).unwrap_or_default();
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it does not hold what it should");
    if !whole || said != greeting {
        return Err(wrong());
    }
    files.try_into().map_err(|_| wrong())
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
    fn what_is_no_such_socket_is_an_error() {
        assert!(Handover::from_socket(file("").as_fd()).is_err());
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        (&a).write_all(GREETING).unwrap();
        assert!(Handover::from_socket(b.as_fd()).is_err());
    }
}
