//! A timeline of the run, in a file beside the logs of the processes.

use std::{
    fs::File,
    io::Write,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use spoke_tests::cloud::now_ms;

/// The journal file.
pub(crate) struct Journal {
    begun: Instant,
    file: Mutex<File>,
}

impl Journal {
    /// Creates the file in this folder.
    pub(crate) fn begin(folder: &Path) -> Self {
        let file = File::create(folder.join("journal.txt")).expect("the journal can be made");
        Self { begun: Instant::now(), file: Mutex::new(file) }
    }

    /// Writes a line: seconds since the start, milliseconds since 1970, and the text.
    pub(crate) fn note(&self, words: &str) {
        let line = format!("{:9.3} {} {words}\n", self.begun.elapsed().as_secs_f64(), now_ms());
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes()).expect("the journal can be written");
    }
}
