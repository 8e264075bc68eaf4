//! Man pages and shell completions of the three programs, for their packages.
//!
//! They are made from the `clap` commands of the programs, but in this binary, so that no shipped program
//! contains the generator.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory, Parser};
use clap_complete::{Shell, generate_to};

/// Writes the man pages and shell completions of the three programs, each to its own folder.
#[derive(Debug, Parser)]
#[command(name = "manual")]
struct Args {
    /// The parent of these folders
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
    // `help` needs no page, and would get one for each command. The completions below have it.
    clap_mangen::generate_to(program.clone().disable_help_subcommand(true), &pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut program, &name, &folder)?;
    }
    Ok(())
}
