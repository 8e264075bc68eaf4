//! Man pages and shell completions of the three programs, for their packages.
//!
//! From the very `clap` commands that the programs parse with, but here, so that no shipped binary
//! bears what makes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory, Parser};
use clap_complete::{Shell, generate_to};

/// Writes the man pages and shell completions of the three programs, a folder each.
#[derive(Debug, Parser)]
#[command(name = "manual")]
struct Args {
    /// Where the folders are made
    folder: PathBuf,
}

fn main() -> io::Result<()> {
    let Args { folder } = Args::parse();
    for program in [
        spoke_agent::AgentCli::command(),
        spoke_hub::HubCli::command(),
        spoke_auth::AuthCli::command(),
    ] {
        write(program, &folder)?;
    }
    Ok(())
}

fn write(mut program: Command, folder: &Path) -> io::Result<()> {
    let name = program.get_name().to_owned();
    let folder = folder.join(&name);
    let pages = folder.join("man");
    fs::create_dir_all(&pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut program, &name, &folder)?;
    }
    clap_mangen::generate_to(program, &pages)
}
