//! What is kept of a run on a group of Redis servers that went wrong: the files of all processes, and the streams at the end.

use std::{
    fmt::Write,
    fs,
    io::Result,
    path::{Path, PathBuf},
};

use spoke_tests::{
    device::{IN, LOST, OUT},
    entries::Stored,
    partition_fleet::PartitionFleet,
    redis_group::RedisGroup,
};

/// Copies the files of all processes to this folder, and lists all streams there.
pub(crate) async fn keep<G: RedisGroup>(fleet: &PartitionFleet<G>, folder: &Path) {
    let mut copies: Vec<(PathBuf, PathBuf)> =
        vec![(fleet.cloud.folder().to_owned(), folder.join("cloud"))];
    for (client, device) in &fleet.devices {
        let own = folder.join(client);
        copies.push((device.folder().to_owned(), own.clone()));
        copies.push((device.redis.directory().to_owned(), own.join("redis")));
        for (name, stream) in [("out", OUT), ("in", IN), ("lost", LOST)] {
            let entries = device.redis.entries(stream).await;
            write(&own, &format!("{name}.tsv"), &listing(&entries));
        }
        for name in ["out", "in", "lost"] {
            let stream = fleet.key_of(client, name).await;
            let entries = fleet.cluster.entries_of(&stream).await;
            let text = entries.map_or("no server answers\n".to_owned(), |it| listing(&it));
            write(&folder.join("cloud"), &format!("{client}-{name}.tsv"), &text);
        }
    }
    if let Some(testbed) = fleet.cluster.testbed() {
        for server in fleet.cluster.servers() {
            let folder = testbed.folder_of(server);
            // Without a disk of its own its files are there.
            if server.directory() != folder {
                copies.push((server.directory().to_owned(), folder.join("disk")));
            }
        }
    }
    for (from, to) in &copies {
        // A file may vanish meanwhile, as one that Redis renames.
        if let Err(error) = copy(from, to) {
            println!("{} is not kept whole: {error}", from.display());
        }
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(folder.join(name), text));
    written.expect("the folder can be written to");
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        let target = to.join(file.file_name());
        match file.file_type()? {
            kind if kind.is_dir() => copy(&file.path(), &target)?,
            kind if kind.is_file() => drop(fs::copy(file.path(), target)?),
            _ => {}
        }
    }
    Ok(())
}

/// The ID and the fields of each entry.
fn listing(entries: &[Stored]) -> String {
    let mut text = String::new();
    for entry in entries {
        text += &entry.id;
        for (name, value) in &entry.fields {
            let _ = write!(text, "\t{}={}", name.escape_ascii(), value.escape_ascii());
        }
        text.push('\n');
    }
    text
}
