"""From a finished release to a repo on the Hub that is equal to it: compared by hashes, one commit, verified."""
