//! Writing a head and its body with as little as the kernel asks for.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// What is copied together before it is written; more is left where it is.
///
/// send(2) of one buffer is cheaper than writev(2) of two as long as the copy is small.
const SMALL: usize = 2048;

/// Writes slices in one system call: `send` where one buffer will do, `writev` for what is large.
pub fn write_slices<S: AsyncWrite + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [only] = slices {
        return Pin::new(stream).poll_write(cx, only);
    }
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    if total > SMALL {
        return Pin::new(stream).poll_write_vectored(cx, slices);
    }
    TOGETHER.with_borrow_mut(|together| {
        together.clear();
        for slice in slices {
            together.extend_from_slice(slice);
        }
        Pin::new(stream).poll_write(cx, together)
    })
}

thread_local! {
    /// Where slices are copied together; nothing stays in it between two calls.
    static TOGETHER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}
