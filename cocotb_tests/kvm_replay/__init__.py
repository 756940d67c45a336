"""`twodim kvm-replay`: recordings of a real KVM against the model of its TDP MMU."""
