//! Which pods are meant to be captured, by the labels alone.

/// Whether a pod wants egress through Egret, by the label `egret.dev/egress` of its namespace and its own, which wins.
pub fn wants_egress(namespace: Option<&str>, pod: Option<&str>) -> bool {
    pod.or(namespace) == Some("enabled")
}

#[cfg(test)]
mod tests {
    use super::wants_egress;

    #[test]
    fn the_pods_own_label_wins() {
        let (on, off) = (Some("enabled"), Some("disabled"));
        for (namespace, pod, wanted) in
            [(None, None, false), (on, None, true), (on, off, false), (None, on, true), (off, on, true)]
        {
            assert_eq!(wants_egress(namespace, pod), wanted, "{namespace:?} {pod:?}");
        }
    }
}
