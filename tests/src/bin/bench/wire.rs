//! .

use crate::{Options, figure::Figure};

pub(crate) async fn measure(_options: &Options) -> Vec<Figure> {
    Vec::new()
}
