complete --keep-order --exclusive --command meshsec --arguments "(MESHSEC_COMPLETE=fish meshsec -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
