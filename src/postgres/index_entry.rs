//! Whether texts fit into an entry of a B-tree: it takes a third of a page at most (`BTMaxItemSize` in nbtree.h), and of long
//! texts what they are compressed (`index_form_tuple` in indextuple.c).

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{IntoDatum, varsize_any};

/// The bytes of a page that three entries share: without its header, three pointers and what the index keeps at its end.
const SHARED: usize = pg_sys::BLCKSZ as usize - 40 - 16;
/// Of an entry, beside the texts: its header, a number, the lengths of two texts and what aligns them.
const AROUND: usize = 52;
const MOST: usize = SHARED / 3 - AROUND;
/// `TOAST_INDEX_TARGET` in heaptoast.h: texts below stay as they are.
const COMPRESSED_FROM: usize = (pg_sys::BLCKSZ as usize - 32) / 16;

// In a header that pgrx does not bind: toast_internals.h, the same from 14 to 18. A null pointer for what does not compress.
unsafe extern "C-unwind" {
    fn toast_compress_datum(value: pg_sys::Datum, method: std::ffi::c_char) -> pg_sys::Datum;
}

/// Whether an index of these texts, and a number at most, can have an entry of them.
pub(crate) fn fit(texts: &[&str]) -> bool {
    texts.iter().map(|text| text.len()).sum::<usize>() <= MOST
        || texts.iter().map(|text| stored_size(text)).sum::<usize>() <= MOST
}

fn stored_size(text: &str) -> usize {
    if text.len() <= COMPRESSED_FROM {
        return text.len();
    }
    let Some(value) = text.into_datum() else {
        return text.len();
    };
    // SAFETY: a text that was just made, in the memory of the call; the method is the session's own, as where an index of
    // texts is written.
    unsafe {
        let compressed = pg_guard_ffi_boundary(|| toast_compress_datum(value, 0));
        match compressed.value() {
            0 => text.len(),
            _ => {
                let size = varsize_any(compressed.cast_mut_ptr());
                pg_sys::pfree(compressed.cast_mut_ptr());
                size
            }
        }
    }
}
