//! The dlv that finds a connection's lines in the program, on a core without memory. It is started with the
//! first question.

use super::Office;
use crate::delve::Delve;
use crate::places::{Found, find_with};
use godebug_api::image::Phrase;
use godebug_api::{Code, Refusal};
use std::path::PathBuf;

pub(super) struct Finder {
    dlv: Option<Delve>,
    folder: PathBuf,
}

impl Finder {
    /// `folder` is this one's alone.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { dlv: None, folder }
    }

    /// # Errors
    /// Why there is no such place, or it cannot be said.
    pub(super) fn find(&mut self, office: &Office, name: &str) -> Result<Found, String> {
        let phrase: Phrase = name.parse().map_err(|error| format!("{name}: {error}"))?;
        let found = self.dlv(office).and_then(|dlv| find_with(dlv, &phrase));
        found.map_err(|refusal| {
            // dlv may have ended; the next question starts another one.
            if refusal.code == Code::Failed {
                self.dlv = None;
            }
            match refusal.remedy.as_str() {
                "" => refusal.message,
                remedy => format!("{}; {remedy}", refusal.message),
            }
        })
    }

    fn dlv(&mut self, office: &Office) -> Result<&mut Delve, Refusal> {
        let dlv = match self.dlv.take() {
            Some(there) => there,
            None => {
                let core = office.target.thin_core()?;
                office.start(&self.folder).on(&office.target.executable, &core)?
            }
        };
        Ok(self.dlv.insert(dlv))
    }
}
