//! What is given back when a value is dropped.

/// Give something back to the server, in a `drop`. But not while an error unwinds: then the abort of the
/// (sub)transaction gives back all that its resource owner, SPI and the stack of snapshots hold, and
/// what is given back twice is an error of its own.
pub(crate) fn unless_unwinding(give_back: impl FnOnce()) {
    if !std::thread::panicking() {
        give_back();
    }
}
