//! What is to be settled, binding by binding.

use std::rc::Rc;

use super::occasion::Occasion;
use crate::binding::Bound;

/// What is to be settled of one binding.
pub(crate) struct Work {
    pub(crate) bound: Rc<Bound>,
    /// By canonical id, in whatever order and how often.
    pub(crate) workflows: Vec<String>,
    pub(crate) occasion: Occasion,
}
