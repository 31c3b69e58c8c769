/* beamlora.h compiles alone, and twice; see test/scripts/check-header.sh. */
#include "beamlora.h"
#include "beamlora.h"
