//! `strapline` is the one name that a package puts into PATH: it runs a tool, lists the tools, and says where they are. And it has
//! what is no stage: showing a receipt, and making a repository.
//!
//! The tools have short names that other programs have, too, so a package keeps them in a directory of their own, which is
//! `../lib/strapline` beside this program; without that, it is this program's own directory, as after a build.

mod receipt;
mod repository;

use clap::builder::{PathBufValueParser, PossibleValuesParser};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use clap_complete::env::CompleteEnv;
use stage::complete::VARIABLE;
use stage::message::nearest;
use stage::run::{usage_failure, write_out};
use stage::{Code, Common, Context, Document, Doing, Failure, TOOLS, quote};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Where a package keeps the tools, beside the directory of this program.
const LIBRARY: &str = "../lib/strapline";

/// Set by bash and zsh, with the number of the word that is completed.
const INDEX: &str = "_CLAP_COMPLETE_INDEX";

fn main() -> ExitCode {
    let context = Context::new("strapline", false);
    run(&context, std::env::args_os().collect()).unwrap_or_else(|failure| {
        context.report(&failure);
        ExitCode::from(failure.code.exit())
    })
}

fn run(context: &Context, mut words: Vec<OsString>) -> Result<ExitCode, Failure> {
    stage::run::refuse_set_uid()?;
    let tools = directory()?;
    // Only to complete, a tool's command line begins behind `--`.
    let completes = std::env::var_os(VARIABLE).is_some();
    let first = if completes { words.iter().position(|word| word == "--").map_or(1, |at| at + 2) } else { 1 };
    // The last word is still being typed.
    let name = words.get(first).filter(|_| !completes || first + 1 < words.len()).and_then(|word| word.to_str());
    if let Some(name) = name.filter(|name| TOOLS.contains(name)) {
        let program = tools.join(name);
        let mut command = process::Command::new(&program);
        if completes {
            words.remove(first - 1);
            let index = std::env::var(INDEX).ok().and_then(|index| index.parse::<usize>().ok());
            command.args(&words[1..]);
            command.envs(index.map(|index| (INDEX, index.saturating_sub(1).to_string())));
        } else {
            command.arg0(name).args(&words[2..]);
        }
        return Err(command.exec()).doing(Code::NotFound, || format!("running {}", quote(&program)));
    }
    CompleteEnv::with_factory(|| command(&tools)).var(VARIABLE).complete();
    let matches = match command(&tools).try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(help) if !help.use_stderr() => {
            print(&help.render().to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(refuse(words.get(1), &error)),
    };
    print(&answer(context, &tools, &matches)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns what is to be printed.
fn answer(context: &Context, tools: &Path, matches: &ArgMatches) -> Result<String, Failure> {
    match matches.subcommand() {
        Some(("path", _)) => Ok(format!("{}\n", tools.display())),
        Some(("completions", matches)) => {
            let shell = matches.get_one::<String>("SHELL").map(String::as_str).unwrap_or_default();
            completions(tools, shell)
        }
        Some(("receipt", matches)) => answer_of_receipt(matches),
        Some(("repository", matches)) => repository::make(context, matches),
        _ => Ok(list(tools)),
    }
}

/// Returns what is to be printed of a receipt.
fn answer_of_receipt(matches: &ArgMatches) -> Result<String, Failure> {
    let read = |matches: &ArgMatches, name: &str| {
        let state = matches.get_one(name).cloned();
        stage::run::read_state(&Common { state, ..Common::default() })
    };
    match matches.subcommand() {
        Some(("why", matches)) => {
            let what = matches.get_one::<String>("WHAT").map(String::as_str).unwrap_or_default();
            receipt::why(&read(matches, "FILE")?, what)
        }
        Some(("diff", matches)) => Ok(receipt::diff(&read(matches, "A")?, &read(matches, "B")?)),
        _ => {
            let document = read(matches, "FILE")?;
            match FORMATS.iter().find(|(name, ..)| matches.get_flag(name)) {
                Some((_, _, make)) => make(&document, matches),
                None => Ok(receipt::text(&document)),
            }
        }
    }
}

/// Makes the text of a receipt in another format.
type Make = fn(&Document, &ArgMatches) -> Result<String, Failure>;

/// Other formats of a receipt: their options, and what is said of them.
const FORMATS: [(&str, &str, Make); 4] = [
    ("html", "As one HTML page", |document, _| Ok(receipt::html(document))),
    ("spdx", "As a bill of materials, SPDX 2.3", |document, _| receipt::spdx(document)),
    ("cyclonedx", "As a bill of materials, CycloneDX 1.6", |document, _| receipt::cyclonedx(document)),
    ("provenance", "As provenance of the images, SLSA Provenance 1 in in-toto", |document, matches| {
        receipt::provenance(document, matches.get_one::<String>("builder").map_or(receipt::BUILDER, String::as_str))
    }),
];

/// Reads a URI: a scheme, and no character that has to be encoded (RFC 3986).
fn uri(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once(':').unwrap_or_default();
    let begins = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_scheme = begins && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b);
    match is_scheme && !rest.is_empty() && rest.bytes().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err("not a URI".to_owned()),
    }
}

/// Returns the command line of `receipt`.
fn receipt_command() -> Command {
    let file = |name: &'static str| Arg::new(name).value_parser(PathBufValueParser::new()).help("The document");
    let what =
        Arg::new("WHAT").required(true).value_name("PKG|PATH").help("A package, or a path in the root, from '/' on");
    let why = Command::new("why").about("Say who brought a package or a file").args([what, file("FILE")]);
    let diff = Command::new("diff").about("Show what is different in two documents");
    let builder = Arg::new("builder").long("builder").value_name("URI").requires("provenance").value_parser(uri);
    let builder = builder.help("With --provenance: who answers for the build");
    let formats = FORMATS.map(|(name, help, _)| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help));
    Command::new("receipt")
        .about("Show a finished document to a person")
        .arg(file("FILE").required(true))
        .group(ArgGroup::new("format").args(FORMATS.map(|(name, ..)| name)))
        .args(formats)
        .arg(builder)
        .subcommands([why, diff.args([file("A").required(true), file("B").required(true)])])
        .subcommand_negates_reqs(true)
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
}

/// Returns the command line: the tools, each with the sentence that it says of itself, and our own words.
fn command(tools: &Path) -> Command {
    let shell = Arg::new("SHELL").required(true).help("The shell").value_parser(PossibleValuesParser::new(SHELLS));
    let own = [
        receipt_command(),
        repository::command(),
        Command::new("path").about("Print the directory of the tools, for PATH"),
        Command::new("completions").about("Print what a shell needs to complete the tools' command lines").arg(shell),
    ];
    let tool = |name: &&'static str| Command::new(*name).about(sentence(tools, name)).disable_help_flag(true);
    Command::new("strapline")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run a tool of strapline; without one, list them")
        .disable_help_subcommand(true)
        .subcommand_value_name("TOOL")
        .subcommand_help_heading("Tools")
        .subcommands(TOOLS.iter().map(tool))
        .subcommands(own)
        .after_help("Example:\n  PATH=$(strapline path):$PATH\n  strapline doctor --arch aarch64")
}

/// Returns what a tool says of itself in the first sentence of its help.
fn sentence(tools: &Path, name: &str) -> String {
    let help = process::Command::new(tools.join(name)).arg("-h").env_remove(VARIABLE).output();
    let text = help.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().take_while(|line| !line.is_empty()).collect();
    if lines.is_empty() { "(not installed)".to_owned() } else { lines.join(" ") }
}

fn list(tools: &Path) -> String {
    let mut text = String::new();
    for name in TOOLS {
        writeln!(text, "{name:13} {}", sentence(tools, name)).unwrap_or(());
    }
    text + "\nSee 'strapline TOOL --help', and strapline(7). PATH=$(strapline path):$PATH puts them into PATH.\n"
}

/// Returns the scripts by which a shell completes the command lines of `strapline` and of each tool that is installed.
fn completions(tools: &Path, shell: &str) -> Result<String, Failure> {
    let own = std::env::current_exe().doing(Code::Os, || "looking for this program")?;
    let programs = TOOLS.iter().map(|name| tools.join(name)).filter(|program| program.exists()).chain([own]);
    let mut text = String::new();
    for program in programs {
        let doing = || format!("running {}", quote(&program));
        let output = process::Command::new(&program).env(VARIABLE, shell).output().doing(Code::NotFound, doing)?;
        text += &String::from_utf8_lossy(&output.stdout);
    }
    Ok(text)
}

/// Returns the directory of the tools.
fn directory() -> Result<PathBuf, Failure> {
    let doing = || "looking for the tools";
    let own = std::env::current_exe().doing(Code::Os, doing)?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    Ok(beside.join(LIBRARY).canonicalize().unwrap_or_else(|_| beside.to_owned()))
}

/// Returns the failure of a word that is no tool.
fn refuse(word: Option<&OsString>, error: &clap::Error) -> Failure {
    let word = word.and_then(|word| OsStr::to_str(word)).unwrap_or_default();
    match nearest(word, TOOLS) {
        Some(meant) if error.kind() == clap::error::ErrorKind::InvalidSubcommand => {
            let failure = Failure::new(Code::Usage, format!("there is no tool '{}'", stage::message::escape(word)));
            failure.hint(format!("did you mean '{meant}'? 'strapline' lists the tools"))
        }
        _ => usage_failure("strapline", error),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    write_out(text.as_bytes()).doing(Code::Output, || "writing on stdout")
}
