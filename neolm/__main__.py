"""`python -m neolm` is `neolm`."""

from neolm.cli import main

main()
