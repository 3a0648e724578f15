//! One thing that is configured: checked before anything is written, then written.

use crate::program::Programs;
use crate::tree::Tree;
use stage::Failure;
use std::cell::RefCell;
use std::fmt::Debug;

/// What steps work on.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) tree: Tree,
    pub(crate) programs: Programs,
    /// What a person should know.
    pub(crate) warnings: RefCell<Vec<String>>,
}

impl Site {
    /// Says that something is not as it should be, though the work goes on.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.warnings.borrow_mut().push(text.into());
    }
}

/// One thing that is configured.
pub(crate) trait Step: Debug {
    /// Returns the name that it has in the document.
    fn name(&self) -> &'static str;

    /// Checks that it can be done in this root, and writes nothing.
    ///
    /// # Errors
    ///
    /// When what was asked for makes no sense in this root.
    fn check(&self, site: &Site) -> Result<(), Failure>;

    /// Does it. What is so already is left alone.
    ///
    /// # Errors
    ///
    /// When it cannot be done.
    fn apply(&self, site: &Site) -> Result<(), Failure>;
}
