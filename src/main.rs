//! The `binhostfs` program; everything is in the library.

fn main() -> std::process::ExitCode {
    binhostfs::run(std::env::args_os())
}
