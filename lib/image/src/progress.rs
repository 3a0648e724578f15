//! The progress bar of the tools that write an image.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

/// Returns a progress bar over that many bytes, which draws on a terminal only; `what` stands before it.
#[must_use]
pub fn bar(shown: bool, bytes: u64, what: &str) -> ProgressBar {
    if !shown {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let template = "{msg} {bar:20} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(stage::message::escape(what));
    bar.with_finish(ProgressFinish::AndClear)
}
