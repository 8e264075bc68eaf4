//! .

use crate::{Options, figure::Figure};

pub(crate) async fn fan_in(_options: &Options) -> Vec<Figure> {
    Vec::new()
}

pub(crate) async fn idle(_options: &Options) -> Vec<Figure> {
    Vec::new()
}

pub(crate) async fn wake(_options: &Options) -> Vec<Figure> {
    Vec::new()
}

pub(crate) async fn storm(_options: &Options) -> Vec<Figure> {
    Vec::new()
}
