//! What every backend must do, as a list of cases: a backend's test runs [`all`] and names nothing else.
//! Shapes are awkward on purpose, and ties are everywhere.
