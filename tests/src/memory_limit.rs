//! A memory limit for one process, by a control group, as `MemoryMax=` of a systemd unit sets it.

use std::{fs, io, path::PathBuf, process::Command};

/// A control group with a memory limit. It is removed when dropped, after its processes have ended.
pub struct MemoryLimit {
    folder: PathBuf,
    is_v1: bool,
}

impl MemoryLimit {
    /// Makes a control group whose processes may use `bytes`, swap not included. An error says why this system
    /// does not let the test do so: it needs root, and control groups that can be written.
    ///
    /// # Errors
    /// If the group cannot be made.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let v1 = PathBuf::from("/sys/fs/cgroup/memory");
        let is_v1 = v1.is_dir();
        let parent = if is_v1 { v1 } else { PathBuf::from("/sys/fs/cgroup") };
        let folder = parent.join(format!("spoke-test-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let limit = Self { folder, is_v1 };
        limit.write(if is_v1 { "memory.limit_in_bytes" } else { "memory.max" }, bytes)?;
        let [shell, option, join] = limit.start_through();
        if !Command::new(shell).args([option, join, "true".to_owned()]).status()?.success() {
            return Err(io::Error::other("a process cannot join the control group"));
        }
        Ok(limit)
    }

    /// The command that starts a program in the group: the program and its arguments follow these words.
    pub fn start_through(&self) -> [String; 3] {
        let join = format!("echo $$ >{}/cgroup.procs && exec \"$0\" \"$@\"", self.folder.display());
        ["/bin/sh".to_owned(), "-c".to_owned(), join]
    }

    /// How many processes of the group the kernel has killed because of the limit.
    ///
    /// # Panics
    /// If the kernel does not say.
    pub fn kills(&self) -> u64 {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        let text = self.read(file);
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
        count.unwrap_or_else(|| panic!("{file} does not count: {text}"))
    }

    fn write(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.folder.join(file), value.to_string())
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).expect("a control group can be read")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
