//! `egret explain`: what would happen to a request, by the functions of the data path.
