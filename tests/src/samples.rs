//! Sample services of another suite. bookworm's own Go is older than any Delve that listens on a Unix
//! socket supports; what people run there under a debugger was built elsewhere, and so are these.

use std::fs;

use anyhow::{Context, Result};

use crate::{
    host::Host,
    image::{self, Product, Suite},
};

impl Host {
    /// Puts `from`'s build of the samples in the place of this host's own, which stay beside them with
    /// the suite's name as extension. Services that run are restarted by whoever needs them.
    pub fn take_samples_of(&self, from: Suite) -> Result<()> {
        let layers = image::layers(from, Product::None)?;
        let services = layers.first().context("a suite without sample services")?;
        let own = self.suite().name();
        let samples = fs::read_dir(services.path().join("opt/samples"));
        for sample in samples.context("listing the samples")?.flatten() {
            if !sample.file_type().is_ok_and(|kind| kind.is_file()) {
                continue;
            }
            let place = self.path("/opt/samples").join(sample.file_name());
            // A program that runs cannot be written to, but renamed.
            fs::rename(&place, place.with_extension(own)).context("putting a sample aside")?;
            fs::copy(sample.path(), &place).context("copying a sample")?;
        }
        Ok(())
    }
}
