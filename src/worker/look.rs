//! A look at a worker's connections to backends, when somebody asks for one.

use std::rc::Rc;

use tokio::sync::{mpsc, oneshot};

use super::Door;
use crate::proxy::PoolView;

/// The most connections of one pool that are shown.
const MOST: usize = 256;

/// A question: which connections are there?
#[derive(Debug)]
pub struct Look {
    /// Where the answer goes.
    pub answer: oneshot::Sender<Vec<PoolView>>,
}

/// Answers whoever looks, for as long as anybody may. Between two looks it costs nothing.
pub(super) async fn answer(mut looks: mpsc::Receiver<Look>, door: Rc<Door>) {
    while let Some(Look { answer }) = looks.recv().await {
        let pools = door.proxy.borrow().connections(MOST);
        // Whoever asked may not have waited.
        let _ = answer.send(pools);
    }
}
