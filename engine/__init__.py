"""What is computed: a series in, a result out; no SQL, no network, no patient identity."""
