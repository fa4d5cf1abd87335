#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tcplb::{app, cli::Cli};

fn main() -> ExitCode {
    match app::run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            app::print_error(&format!("tcplb: {error}"));
            ExitCode::FAILURE
        }
    }
}
