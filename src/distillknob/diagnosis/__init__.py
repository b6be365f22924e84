"""Why a pair will fail: each trap is one file that turns scored tensors into a `Finding`."""
