//! The `binhostfs` program; everything is in the library.

fn main() -> std::process::ExitCode {
    binhostfs::cli::run(std::env::args_os())
}
