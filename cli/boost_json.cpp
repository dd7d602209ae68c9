// Boost.JSON's own definitions, compiled once for this program: no shared library is needed for
// them.
#include <boost/json/src.hpp>
